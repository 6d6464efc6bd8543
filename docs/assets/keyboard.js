// Wide tables scroll: the keyboard must reach them. The search needs a name for screen readers.
window.addEventListener("load", () => {
  for (const wide of document.querySelectorAll(".md-typeset__scrollwrap")) wide.tabIndex = 0;
  for (const search of document.querySelectorAll(".md-search, #__search")) search.ariaLabel = "Search";
});

"""`python -m tests.docs`: it sees every command of a page, and names the line of one that fails."""

from __future__ import annotations

from tests.docs.__main__ import command_of, run_page
from tests.docs.exceptions import EXCEPTIONS
from tests.docs.pages import PAGES, Piece, pieces

PAGE = """\
# A page

Options may be `--method ect
--method.pairs ot`, and `fewstep eval` is a verb.

```console
fewstep recipes --json       # a comment
fewstep train digits --method
                     nothing
unheard of
```

- In a list:

  ```bash
  torchrun --nproc-per-node 2 -m fewstep recipes
  ```

```python
x = 1
y = z
```
"""


def test_every_command_has_its_line(tmp_path):
    page = tmp_path / "gc.md"
    page.write_text(PAGE)
    all_pieces = [piece[1:] for piece in pieces(page)]
    assert all_pieces == [
        (3, "options", "--method ect --method.pairs ot"),
        (7, "shell", "fewstep recipes --json"),
        (8, "shell", "fewstep train digits --method nothing"),
        (10, "shell", "unheard of"),
        (16, "shell", "torchrun --nproc-per-node 2 -m fewstep recipes"),
        (20, "python", "x = 1\ny = z"),
    ]


def test_what_fails_is_named_by_page_and_line(tmp_path, capsys):
    page = tmp_path / "gc.md"
    page.write_text(PAGE.partition("```console")[2].join(["\n" * 5 + "```console", ""]))
    failures = run_page(page, verbose=False)
    places = [line.partition("gc.md:")[2].partition(":")[0] for line in failures]
    assert places == ["8", "10", "21"]
    assert "unknown method 'nothing'" in failures[0]
    assert "neither a command of fewstep nor an exception" in failures[1]
    assert "name 'z' is not defined" in failures[2]


def test_options_of_a_page_are_of_its_method():
    page = next(page for page in PAGES if page.name == "ect.md")
    command = command_of(Piece(page, 1, "options", "--method.pairs ot"))
    assert command == "fewstep train digits --method ect --method.pairs ot"


def test_every_exception_has_a_command():
    commands = [command_of(piece) for page in PAGES for piece in pieces(page)]
    shell = [text for text in commands if not text.startswith("fewstep train digits --method ")]
    assert len(shell) > 80
    assert [one.pattern for one in EXCEPTIONS if not any(map(one.fits, commands))] == []

// Browsers start no workers from files of a disk. There the search runs in a hidden frame instead.
(function () {
  if (location.protocol !== "file:") return;
  class FrameWorker extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      const inside = frame.contentWindow;
      addEventListener("message", (event) => {
        if (event.source !== inside) return;
        const message = new MessageEvent("message", { data: event.data });
        this.dispatchEvent(message);
        if (this.onmessage) this.onmessage(message);
      });
      // All that the worker asks of its surroundings.
      inside.postMessage = (data) => window.dispatchEvent(
        new MessageEvent("message", { data: data, source: inside })
      );
      inside.importScripts = (...urls) => urls.reduce(
        (before, each) => before.then(() => this.load(frame, each)), Promise.resolve()
      );
      this.inside = inside;
      this.ready = this.load(frame, url);
    }
    load(frame, url) {
      return new Promise((resolve, reject) => {
        const script = frame.contentDocument.createElement("script");
        script.src = url;
        script.onload = resolve;
        script.onerror = reject;
        frame.contentDocument.body.append(script);
      });
    }
    postMessage(data) {
      this.ready.then(() => this.inside.dispatchEvent(new MessageEvent("message", { data: data })));
    }
    terminate() {}
  }
  window.IFrameWorker = FrameWorker;
  window.Worker = FrameWorker;
})();

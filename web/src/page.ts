// The page: what is asked for, the makers that answer, and where their samples are drawn.

import { Look, Range, Samples } from "./look";
import { elementsOf, fromBase64, Maker, Model, presence, readModel, sizeOf } from "./model";
import { Network, Wish } from "./network";
import { normals } from "./random";
import { TabMaker } from "./scheme";
import { ask } from "./server";
import {
  aspect,
  bars,
  draw,
  ENOUGH,
  Frame,
  isClickable,
  PANELS,
  sampleAt,
  twoEnds,
} from "./views";

const find = <T extends HTMLElement>(id: string) => document.getElementById(id) as T;

/** A figure of the first section: a maker with a number of steps. */
interface Column {
  maker: Maker;
  steps: number;
  canvas: HTMLCanvasElement;
  caption: HTMLElement;
  samples: Samples | null;
}

class Page {
  readonly count: number;
  readonly size: number;
  readonly look: Look;
  readonly tabs = new Map<string, TabMaker>();
  columns: Column[] = [];
  range: Range | null = null;
  tallest = 0; // samples in the highest bar of all histograms
  readonly warm = new Set<string>(); // makers whose networks have made a pass
  said = ""; // of where samples are made
  selected = 0;
  place: [number, number] = [0, 0];
  wanted = 0; // the newest wish: older ones stop

  constructor(readonly model: Model) {
    this.count = ENOUGH[model.view.kind];
    this.size = sizeOf(model.shape);
    this.look = new Look(model.view, model.shape);
  }

  async start(): Promise<void> {
    const { model } = this;
    document.title = `${model.data} · fewstep`;
    find("title").textContent = model.data;
    for (const maker of model.makers) {
      if (!maker.file || !maker.units) continue;
      const network = await Network.load(maker.file);
      const units = await Network.load(maker.units);
      const tab = new TabMaker(maker, network, units, model);
      this.tabs.set(maker.name, tab);
    }
    this.build();
    const [student] = model.makers;
    this.say(
      this.tabs.has("student")
        ? "Noise becomes a sample in a few evaluations of a network, which runs in this tab."
        : `The server makes the samples, since ${student.why}.`,
    );
    find("main").hidden = false;
    find("slow").hidden = true;
    await this.renew();
    const hasFailed = find("status").className === "error";
    if (model.check && !hasFailed) await this.compare(model.check);
    note("all", performance.now() / 1e3);
  }

  /** Says whether samples are PyTorch's. */
  private async compare(check: NonNullable<Model["check"]>): Promise<void> {
    const [far, share] = await this.difference(check);
    const { grey } = this.model.view;
    const much = grey
      ? `${rough((far * 255) / (grey[1] - grey[0]))} of 255 shades`
      : `${rough(share)} of their range`;
    this.say(`${this.said} Its samples are PyTorch's to ${much}.`);
    note("difference", far);
  }

  private say(line: string): void {
    this.said = line;
    const status = find("status");
    status.className = "";
    status.textContent = line;
  }

  /** The largest difference from samples that PyTorch made of the same seed, and by the range. */
  private async difference(check: NonNullable<Model["check"]>): Promise<[number, number]> {
    const truth = new Float64Array(fromBase64(check.samples).buffer);
    const noise = normals(check.seed, "prior", check.n, this.size);
    const tab = this.tabs.get("student")!;
    const wish = { labels: this.labels(check.n, ""), values: {} };
    const made = await tab.make(noise, check.n, check.steps, check.seed, wish);
    const own = await tab.inUnits(made.x, check.n);
    const most = (x: Float64Array, y: Float64Array, unit: (i: number) => number) =>
      x.reduce((far, value, i) => Math.max(far, Math.abs(value - y[i]) / unit(i)), 0);
    const [x, y] = [truth, own].map((values) => this.look.samples(values, check.n, null));
    const widths = this.look.range([x]).map(([low, high]) => high - low);
    const unit = (i: number) => widths[this.look.variableAt(i)];
    return [most(truth, own, () => 1), most(x.values, y.values, unit)];
  }

  private labels(n: number, choice: string): number[] | null {
    const { labels } = this.model;
    if (!labels) return null;
    if (choice !== "") return new Array(n).fill(Number(choice));
    const turn = labels.occurring.length ? labels.occurring : [...Array(labels.count).keys()];
    return Array.from({ length: n }, (_, i) => turn[i % turn.length]);
  }

  private wish(n: number): Wish {
    const values: Wish["values"] = {};
    for (const one of this.model.conditions) {
      const elements = elementsOf(one);
      if (elements) {
        const count = find<HTMLInputElement>("elements").valueAsNumber || elements;
        values[one.name] = Array.from({ length: elements }, (_, i) => i < count);
      }
      if (!one.has_controls) continue;
      const inputs = document.querySelectorAll<HTMLInputElement>(`input[data-of="${one.name}"]`);
      values[one.name] = [...inputs].map((input, i) => {
        const number = input.valueAsNumber;
        return Number.isFinite(number) ? number : (one.value[i] as number);
      });
    }
    return { labels: this.labels(n, find<HTMLSelectElement>("label").value), values };
  }

  private get seed(): number {
    const value = Math.floor(find<HTMLInputElement>("seed").valueAsNumber);
    return Number.isSafeInteger(value) && value >= 0 ? value : 0;
  }

  private get frame(): Frame {
    const choice = (id: string) => Number(find<HTMLSelectElement>(id).value || 0);
    return {
      look: this.look,
      axes: [choice("across"), choice("up")],
      range: this.range ?? [],
      selected: this.tabs.has("student") ? this.selected : -1,
      tallest: this.tallest,
    };
  }

  /** The controls and figures that this model needs. */
  private build(): void {
    const { model } = this;
    if (model.labels) {
      const { labels } = model;
      const turn = labels.occurring.length ? labels.occurring : [...Array(labels.count).keys()];
      const options: [string, string][] = [["", "in turn"]];
      if (labels.any) options.push(["-1", "any"]);
      options.push(...turn.map((i): [string, string] => [String(i), labels.names[i] ?? String(i)]));
      fill(find<HTMLSelectElement>("label"), options);
      find("label-box").hidden = false;
    }
    this.buildConditions();
    this.buildAxes();
    for (const maker of model.makers) {
      for (const steps of maker.sampler_steps) this.columns.push(this.column(maker, steps));
    }
    find("columns").classList.toggle("few", this.columns.length < 4);
    const counts = new Set(this.columns.map((one) => one.steps));
    if (counts.size === 1) find("side").textContent = "Samples";
    const [student] = model.makers;
    const steps = student.sampler_steps.map((n): [string, string] => [String(n), String(n)]);
    fill(find<HTMLSelectElement>("steps"), steps);
    find<HTMLSelectElement>("steps").value = String(student.default);
    const isTab = this.tabs.has("student");
    find("latent-section").hidden = find("path-section").hidden = !isTab;
    find("latents").hidden = !model.view.latents;
    const chosen = find<HTMLInputElement>("chosen");
    chosen.max = String(this.count);
    const { about } = model;
    find("about").textContent =
      `${about.network} of ${about.weights.toLocaleString("en")} weights, trained by ${about.method}`
      + ` for ${about.trained_steps.toLocaleString("en")} steps; fingerprint`
      + ` ${about.fingerprint.slice(0, 16)}.`;
    find("where").textContent =
      `Seed s is the seed of “fewstep sample RUN --seed s”, by any number of steps.`;
    this.listen();
  }

  /** What is to be known of the pictures. */
  private hints(): string[] {
    const isTab = this.tabs.has("student");
    const { view, conditions, shape } = this.model;
    const { variables, hasTiles } = this.look;
    const hasPictures = view.kind === "tiles" || view.kind === "fields";
    const result: string[] = [];
    if (isTab && hasTiles) result.push("Click a picture, and it is followed below.");
    else if (isTab && isClickable(this.frame)) result.push("Click a point: its noise is followed.");
    if (view.kind === "series" && variables > PANELS) {
      result.push(`Drawn are the first ${PANELS} of ${variables} channels.`);
    }
    if (view.kind === "fields" && shape.length > 3) result.push("Drawn is the middle of each.");
    const samples = this.columns.flatMap((column) => column.samples ?? []);
    const outside = hasPictures || !this.range ? 0 : this.look.outside(samples, this.range);
    if (outside) result.push(`Numbers beyond the axes: ${outside}.`);
    const mask = conditions.find((one) => one.name === "mask");
    if (mask && !elementsOf(mask)) result.push("The data may have gaps; these samples have none.");
    return result;
  }

  private buildConditions(): void {
    for (const one of this.model.conditions) {
      const elements = elementsOf(one);
      if (elements) {
        const input = find<HTMLInputElement>("elements");
        input.max = input.value = String(elements);
        find("elements-of").textContent = `of ${elements}`;
        find("elements-box").hidden = false;
        input.addEventListener("input", () => void this.renew());
      }
      if (!one.has_controls) continue;
      find("conditions").hidden = false;
      one.value.forEach((value, i) => {
        const label = document.createElement("label");
        const word = one.name === "features" ? "number" : one.name;
        const name = one.columns[i] ?? (one.value.length > 1 ? `${word} ${i + 1}` : word);
        label.append(name, " ");
        const input = document.createElement("input");
        Object.assign(input, { type: "number", step: "any", required: true, value: plain(Number(value)) });
        input.dataset.of = one.name;
        input.addEventListener("input", () => void this.renew());
        label.append(input);
        find("conditions").append(label);
      });
    }
  }

  private buildAxes(): void {
    const { view } = this.model;
    const { variables, isCloud } = this.look;
    const options = Array.from({ length: variables }, (_, i): [string, string] => [
      String(i),
      view.columns[i]?.name ?? String(i),
    ]);
    for (const id of ["across", "up"]) fill(find<HTMLSelectElement>(id), options);
    find<HTMLSelectElement>("up").value = String(Math.min(1, variables - 1));
    const isMap = view.kind === "fields" && variables > 1;
    const isTable = view.kind === "numbers" ? variables > 1 : isCloud && variables > 2;
    find("across-box").hidden = !isMap && !isTable;
    find("up-box").hidden = !isTable;
    if (isMap) find("across-word").textContent = "Drawn";
  }

  private column(maker: Maker, steps: number): Column {
    const figure = document.createElement("figure");
    const canvas = document.createElement("canvas");
    const caption = document.createElement("figcaption");
    canvas.setAttribute("role", "img");
    canvas.dataset.column = `${maker.name}-${steps}`;
    figure.append(canvas, caption);
    find("columns").append(figure);
    canvas.style.aspectRatio = String(1 / aspect(this.look, this.count));
    const one: Column = { maker, steps, canvas, caption, samples: null };
    canvas.addEventListener("click", ({ offsetX, offsetY }) => {
      if (!one.samples || !this.tabs.has("student")) return;
      const number = sampleAt(canvas, this.frame, one.samples, offsetX, offsetY);
      if (number >= 0) void this.follow(number);
    });
    return one;
  }

  private listen(): void {
    for (const id of ["label", "seed"]) find(id).addEventListener("input", () => void this.renew());
    const again = () => {
      this.redraw();
      if (this.tabs.has("student")) void this.follow(this.selected);
    };
    for (const id of ["across", "up"]) find(id).addEventListener("input", again);
    window.addEventListener("themechange", again);
    find("controls").addEventListener("submit", (event) => event.preventDefault());
    find("again").addEventListener("click", () => void this.again());
    find("steps").addEventListener("input", () => void this.follow(this.selected));
    find("chosen").addEventListener("input", () => {
      const { valueAsNumber, validity } = find<HTMLInputElement>("chosen");
      if (validity.valid) void this.follow(valueAsNumber - 1);
    });
    find("middle").addEventListener("click", () => void this.move(0, 0));
    const pad = find("pad");
    const drag = (event: PointerEvent) => {
      const box = pad.getBoundingClientRect();
      const [across, down] = [event.clientX - box.left, event.clientY - box.top];
      void this.move((across / box.width) * 2 - 1, 1 - (down / box.height) * 2);
    };
    pad.addEventListener("pointerdown", (event) => {
      pad.setPointerCapture(event.pointerId);
      drag(event);
    });
    pad.addEventListener("pointermove", (event) => {
      if (pad.hasPointerCapture(event.pointerId)) drag(event);
    });
    pad.addEventListener("keydown", (event) => {
      const moves: Record<string, [number, number]> = {
        ArrowLeft: [-0.1, 0],
        ArrowRight: [0.1, 0],
        ArrowUp: [0, 0.1],
        ArrowDown: [0, -0.1],
      };
      const by = moves[event.key];
      if (!by) return;
      event.preventDefault();
      void this.move(this.place[0] + by[0], this.place[1] + by[1]);
    });
    document.addEventListener("keydown", (event) => {
      const isTyping = (event.target as HTMLElement).matches("input, select");
      const isPlain = !event.ctrlKey && !event.metaKey && !event.altKey;
      if (event.key === "n" && isPlain && !isTyping) void this.again();
    });
    let width = window.innerWidth;
    window.addEventListener("resize", () => {
      if (window.innerWidth !== width) again();
      width = window.innerWidth;
    });
  }

  private async again(): Promise<void> {
    const [word] = crypto.getRandomValues(new Uint32Array(1));
    find<HTMLInputElement>("seed").value = String(word);
    await this.renew();
  }

  /** All figures, for what is asked for now. */
  async renew(): Promise<void> {
    // What is no seed or number is said at its place, and the pictures stay.
    if (!find<HTMLFormElement>("controls").reportValidity()) return;
    const wanted = ++this.wanted;
    const wish = this.wish(this.count);
    const { seed } = this;
    for (const { canvas } of this.columns) canvas.classList.add("old");
    try {
      for (const column of this.columns) {
        const made = await this.make(column.maker, this.count, column.steps, seed, wish);
        if (wanted !== this.wanted) return;
        column.samples = this.drawn(made.values, this.count, wish);
        this.range ??= this.look.range([column.samples]);
        this.show(column, made.seconds);
        await pause();
        if (!document.documentElement.dataset.ready) note("ready", performance.now() / 1e3);
        if (this.warm.has(column.maker.name) || !this.tabs.has(column.maker.name)) continue;
        // A network's first pass is slow: the next one says how long it takes.
        this.warm.add(column.maker.name);
        const { seconds } = await this.make(column.maker, this.count, column.steps, seed, wish);
        if (wanted !== this.wanted) return;
        this.show(column, seconds);
      }
      const all = this.columns.flatMap((column) => column.samples ?? []);
      this.range = this.look.range(all);
      this.say(this.said); // whatever failed before
      this.redraw();
      if (this.tabs.has("student")) await this.follow(this.selected);
    } catch (error) {
      fail(error);
    }
  }

  private drawn(values: Float64Array, n: number, wish: Wish): Samples {
    return this.look.samples(values, n, presence(this.model, wish.values.mask));
  }

  /** Samples in the data's units. */
  private async make(
    maker: Maker,
    n: number,
    steps: number,
    seed: number,
    wish: Wish,
  ): Promise<{ values: Float64Array; seconds: number }> {
    const tab = this.tabs.get(maker.name);
    if (!tab) return ask(this.model, n, steps, seed, wish);
    const made = await tab.make(normals(seed, "prior", n, this.size), n, steps, seed, wish);
    return { values: await tab.inUnits(made.x, n), seconds: made.seconds };
  }

  private show(column: Column, seconds: number): void {
    const { maker, steps, canvas, caption, samples } = column;
    draw(canvas, samples!, this.frame);
    canvas.classList.remove("old");
    const name = maker.name === "teacher" ? "Teacher, " : "";
    const words = `${name}${steps} ${steps > 1 ? "steps" : "step"}`;
    const strong = document.createElement("strong");
    strong.textContent = words;
    caption.replaceChildren(strong, `: ${samples!.n} in ${milliseconds(seconds)}`);
    canvas.setAttribute("aria-label", `${samples!.n} samples, ${words}`);
  }

  private redraw(): void {
    const { frame, look } = this;
    const all = this.columns.flatMap((column) => column.samples ?? []);
    this.tallest = look.isCloud ? Math.max(0, ...all.flatMap((one) => bars(one, frame))) : 0;
    find("scale").hidden = look.view.kind !== "fields";
    if (look.view.kind === "fields" && this.range) {
      const [low, high] = twoEnds(...this.range[frame.axes[0]]);
      find("lowest").textContent = low;
      find("highest").textContent = high;
    }
    find("side-hint").textContent = this.hints().join(" ");
    for (const { canvas, samples } of this.columns) {
      canvas.classList.toggle("clickable", this.tabs.has("student") && isClickable(frame));
      if (samples) draw(canvas, samples, this.frame);
    }
  }

  /** Shows this sample in the sections below. */
  private async follow(number: number): Promise<void> {
    this.selected = number;
    find<HTMLInputElement>("chosen").value = String(number + 1);
    this.redraw();
    await this.move(0, 0);
    await this.walk();
  }

  /** The noise at a place of the square: that of the sample, with two others mixed in. */
  private noiseAt([across, up]: [number, number]): Float32Array {
    const of = (stream: string, row: number) =>
      normals(this.seed, stream, row + 1, this.size).subarray(row * this.size);
    const [z, a, b] = [of("prior", this.selected), of("page across", 0), of("page up", 0)];
    const length = Math.hypot(1, across, up);
    return z.map((value, i) => (value + across * a[i] + up * b[i]) / length);
  }

  private async move(across: number, up: number): Promise<void> {
    const limit = (x: number) => Math.min(Math.max(x, -1), 1);
    this.place = [limit(across), limit(up)];
    const [x, y] = this.place;
    Object.assign(find("handle").style, { left: `${50 + 50 * x}%`, top: `${50 - 50 * y}%` });
    const pad = find("pad");
    pad.setAttribute("aria-valuenow", String(Math.round(100 * x)));
    pad.setAttribute("aria-valuetext", `across ${x.toFixed(1)}, up ${y.toFixed(1)}`);
    if (this.isMoving) return; // the newest place is taken when the sample before is drawn
    this.isMoving = true;
    try {
      for (let place: [number, number] | null = null; place !== this.place; await pause()) {
        place = this.place;
        await this.one(place);
      }
    } catch (error) {
      fail(error);
    } finally {
      this.isMoving = false;
    }
  }

  private isMoving = false;
  private shown = 0; // samples of the square

  private get steps(): number {
    return Number(find<HTMLSelectElement>("steps").value);
  }

  /** The wish for the chosen sample alone. */
  private oneWish(): Wish {
    const { labels, values } = this.wish(this.count);
    return { labels: labels && [labels[this.selected]], values };
  }

  private async one(place: [number, number]): Promise<void> {
    const { seed, steps, selected } = this;
    const tab = this.tabs.get("student")!;
    const wish = this.oneWish();
    const made = await tab.make(this.noiseAt(place), 1, steps, seed, wish, selected);
    const among = this.columns.find((one) => one.maker === tab.maker && one.steps === steps);
    const { look, frame } = this;
    const behind = look.isCloud && look.places === 1 ? (among?.samples ?? null) : null;
    const one = this.drawn(await tab.inUnits(made.x, 1), 1, wish);
    draw(find<HTMLCanvasElement>("one"), one, { ...frame, selected: -1 }, behind);
    find("one-caption").textContent = `One sample in ${milliseconds(made.seconds)}`;
    note("one", made.seconds);
    note("count", ++this.shown);
  }

  /** What stands before each step, and the end: of the chosen sample, or of a whole cloud. */
  private async walk(): Promise<void> {
    const tab = this.tabs.get("student")!;
    const isWhole = this.look.isCloud && this.look.places === 1;
    const n = isWhole ? this.count : 1;
    const noise = isWhole ? normals(this.seed, "prior", n, this.size) : this.noiseAt([0, 0]);
    const wish = isWhole ? this.wish(n) : this.oneWish();
    const row = isWhole ? 0 : this.selected;
    const made = await tab.make(noise, n, this.steps, this.seed, wish, row);
    const states = made.path.map(({ x, level }) => ({
      x: toBeSeen(x),
      words: `noise level ${plain(level)}`,
    }));
    states.push({ x: made.x, words: isWhole ? "samples" : "sample" });
    const shown: Samples[] = [];
    for (const { x } of states) shown.push(this.drawn(await tab.inUnits(x, n), n, wish));
    // Noise may lie far outside of samples under one condition.
    const range = this.look.hasTiles ? this.frame.range : this.look.range(shown);
    const frame = { ...this.frame, range, selected: isWhole ? this.selected : -1, tallest: 0 };
    const film = find("film");
    film.replaceChildren();
    states.forEach(({ words }, i) => {
      const figure = document.createElement("figure");
      const canvas = document.createElement("canvas");
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", words);
      const caption = document.createElement("figcaption");
      caption.textContent = words;
      figure.append(canvas, caption);
      film.append(figure);
      draw(canvas, shown[i], frame);
    });
  }
}

/** Notes a number of the page, for those who measure it. */
function note(name: string, value: number): void {
  document.documentElement.dataset[name] = String(value);
}

/** x at the scale of data, whose deviation is 1/2 in the model's units; 0 where a mask has none. */
function toBeSeen(x: Float32Array): Float32Array {
  const count = x.reduce((sum, value) => sum + (value === 0 ? 0 : 1), 0);
  const length = Math.sqrt(x.reduce((sum, value) => sum + value * value, 0) / Math.max(count, 1));
  return length > 0.5 ? x.map((value) => (0.5 * value) / length) : x;
}

function fill(select: HTMLSelectElement, options: [string, string][]): void {
  select.replaceChildren(...options.map(([value, text]) => new Option(text, value)));
}

const milliseconds = (seconds: number) =>
  seconds < 0.01
    ? `${(1e3 * seconds).toFixed(1)} ms`
    : seconds < 1
      ? `${Math.round(1e3 * seconds)} ms`
      : `${seconds.toFixed(1)} s`;

const plain = (x: number | null) => (x === null ? "∞" : String(Number(x.toPrecision(3))));

const rough = (x: number) => String(Number(x.toPrecision(1)));

const pause = () => new Promise((resolve) => setTimeout(resolve));

function fail(error: unknown): void {
  find("slow").hidden = true;
  const status = find("status");
  status.className = "error";
  status.textContent = error instanceof Error ? error.message : String(error);
}

/** Light or dark: as the system has it, until somebody chooses. */
function theme(): void {
  const root = document.documentElement;
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const set = (isDark: boolean) => {
    root.dataset.theme = isDark ? "dark" : "light";
    window.dispatchEvent(new Event("themechange"));
  };
  set(dark.matches);
  dark.addEventListener("change", () => set(dark.matches));
  find("theme").addEventListener("click", () => set(root.dataset.theme !== "dark"));
}

theme();
readModel()
  .then((model) => new Page(model).start())
  .catch(fail);

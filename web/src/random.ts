// The noise of a seed, number for number that of `fewstep sample --seed`: fewstep.base.randomness
// with the CPU generator of torch.

const BLOCK = 16; // samples of one draw
const ROUNDS = 4;

/** SHA-256 of a text, as eight words (FIPS 180-4); a page opened from disk has no crypto.subtle. */
export function sha256(text: string): Uint32Array {
  const bytes = new TextEncoder().encode(text);
  const padded = new Uint8Array(((bytes.length + 8) >> 6 << 6) + 64);
  padded.set(bytes);
  padded[bytes.length] = 0x80;
  const view = new DataView(padded.buffer);
  view.setUint32(padded.length - 4, bytes.length * 8);
  const [roots, cubes] = constants();
  const state = Uint32Array.from(roots);
  const w = new Uint32Array(64);
  for (let at = 0; at < padded.length; at += 64) {
    for (let i = 0; i < 16; i++) w[i] = view.getUint32(at + 4 * i);
    for (let i = 16; i < 64; i++) {
      const [a, b] = [w[i - 15], w[i - 2]];
      const low = turn(a, 7) ^ turn(a, 18) ^ (a >>> 3);
      const high = turn(b, 17) ^ turn(b, 19) ^ (b >>> 10);
      w[i] = (w[i - 16] + low + w[i - 7] + high) | 0;
    }
    let [a, b, c, d, e, f, g, h] = state;
    for (let i = 0; i < 64; i++) {
      const one = turn(e, 6) ^ turn(e, 11) ^ turn(e, 25);
      const first = (h + one + ((e & f) ^ (~e & g)) + cubes[i] + w[i]) | 0;
      const two = turn(a, 2) ^ turn(a, 13) ^ turn(a, 22);
      const second = (two + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      [h, g, f, e, d, c, b, a] = [g, f, e, (d + first) | 0, c, b, a, (first + second) | 0];
    }
    [a, b, c, d, e, f, g, h].forEach((word, i) => (state[i] = (state[i] + word) | 0));
  }
  return state;
}

const turn = (x: number, by: number) => (x >>> by) | (x << (32 - by));

/** The fractions of the square and cube roots of the first primes. */
function constants(): [number[], number[]] {
  const primes: number[] = [];
  for (let n = 2; primes.length < 64; n++) if (primes.every((p) => n % p)) primes.push(n);
  const bits = (x: number) => Math.floor((x - Math.floor(x)) * 2 ** 32);
  return [primes.slice(0, 8).map((p) => bits(Math.sqrt(p))), primes.map((p) => bits(Math.cbrt(p)))];
}

/** The 32-bit seed of a block: a bijection of the block's number for each (seed, stream). */
export function blockSeed(seed: number | bigint, stream: string, block: number): number {
  const keys = sha256(`${seed}|${stream}`);
  let [left, right] = [block >>> 16, block & 0xffff];
  for (let round = 0; round < ROUNDS; round++) {
    const key = keys[round];
    const mix = (Math.imul(right ^ (key & 0xffff), 0x9e3779b1) + (key >>> 16)) >>> 0;
    const far = (Math.imul(mix ^ (mix >>> 15), 0x85ebca6b) >>> 13) & 0xffff;
    [left, right] = [right, left ^ far];
  }
  return ((left << 16) | right) >>> 0;
}

/** MT19937 with 32-bit words. */
export function twister(seed: number): () => number {
  const state = new Uint32Array(624);
  state[0] = seed;
  for (let i = 1; i < 624; i++) {
    const before = state[i - 1] ^ (state[i - 1] >>> 30);
    state[i] = Math.imul(1812433253, before) + i;
  }
  let at = 624;
  return () => {
    if (at === 624) {
      for (let i = 0; i < 624; i++) {
        const y = (state[i] & 0x80000000) | (state[(i + 1) % 624] & 0x7fffffff);
        state[i] = state[(i + 397) % 624] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
      }
      at = 0;
    }
    let y = state[at++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  };
}

/** Fills an array, whose length is a multiple of 16, as torch's normal_ does on a CPU. */
function fillNormal(out: Float32Array, seed: number): void {
  const word = twister(seed);
  for (let i = 0; i < out.length; i++) out[i] = (word() & 0xffffff) / 2 ** 24;
  for (let first = 0; first < out.length; first += 16) {
    for (let j = first; j < first + 8; j++) {
      const radius = Math.sqrt(-2 * Math.log(1 - out[j]));
      const angle = 2 * Math.PI * out[j + 8];
      out[j] = radius * Math.cos(angle);
      out[j + 8] = radius * Math.sin(angle);
    }
  }
}

/** Unit normals [count, size] of the samples 0, 1, ... of a stream. */
export function normals(
  seed: number | bigint,
  stream: string,
  count: number,
  size: number,
): Float32Array {
  const blocks = Math.ceil(count / BLOCK);
  const out = new Float32Array(blocks * BLOCK * size);
  for (let block = 0; block < blocks; block++) {
    const first = block * BLOCK * size;
    fillNormal(out.subarray(first, first + BLOCK * size), blockSeed(seed, stream, block));
  }
  return out.subarray(0, count * size);
}

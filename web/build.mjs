// Bundles the page into ../src/fewstep/page/built: page.js, page.css, index.html, the wasm of
// onnxruntime and the licences of what is inside.
import { build } from "esbuild";
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { gzipSync } from "node:zlib";

const out = process.argv[2] ?? "../src/fewstep/page/built";
rmSync(out, { recursive: true, force: true });
mkdirSync(out, { recursive: true });
await build({
  entryPoints: ["src/page.ts"],
  outfile: `${out}/page.js`,
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  legalComments: "none",
  // This build holds its WebAssembly loader itself, so that the page is one file.
  alias: { "onnxruntime-web": "./node_modules/onnxruntime-web/dist/ort.wasm.bundle.min.mjs" },
  external: ["module", "worker_threads", "node:*"],
  logLevel: "warning",
});
for (const name of ["index.html", "page.css"]) cpSync(`src/${name}`, `${out}/${name}`);
const wasm = readFileSync("node_modules/onnxruntime-web/dist/ort-wasm-simd-threaded.wasm");
writeFileSync(`${out}/ort.wasm.gz`, gzipSync(wasm, { level: 9 }));
cpSync("LICENCES.txt", `${out}/LICENCES.txt`);

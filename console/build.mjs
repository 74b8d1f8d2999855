// Makes the page's script and style sheet. `cargo xtask test console` says when what is committed is not what this makes.
//
//   node build.mjs [folder]     the folder is where the node embeds them from, unless another one is named

import { build } from "esbuild";
import { fileURLToPath } from "node:url";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const folder = process.argv[2] ?? here("../node/src/console/built");

await build({
  entryPoints: [
    { in: here("src/main.tsx"), out: "console" },
    { in: here("src/console.css"), out: "console" },
  ],
  outdir: folder,
  bundle: true,
  minify: true,
  charset: "utf8",
  format: "iife",
  target: "es2022",
  jsx: "automatic",
  jsxImportSource: "preact",
  logLevel: "warning",
  banner: {
    js: "// Waymeet's console, made from console/. With Preact, copyright (c) 2015-present Jason Miller, MIT licence.",
    css: "/* Waymeet's console, made from console/. */",
  },
});

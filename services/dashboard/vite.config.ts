import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { brotliCompressSync, constants, gzipSync } from "node:zlib";
import react from "@vitejs/plugin-react";
import { defineConfig, type Plugin } from "vite";

// The lessons that the pages show: without them the build would be silent, and the course empty.
if (!existsSync(new URL("../../examples/01_perceptron/README.md", import.meta.url))) throw new Error("examples/ is missing beside services/: the pages show its lessons.");

const api = process.env.FITSERVE_API ?? "http://127.0.0.1:8000";

const LEAST_BYTES = 1_000; // what is smaller fits one packet anyway

/** Each asset beside itself as `.gz` and `.br`: compressed once, and better than while somebody waits. */
function precompressed(): Plugin {
  return {
    name: "precompressed",
    apply: "build",
    writeBundle({ dir = "build" }) {
      const assets = join(dir, "assets");
      for (const name of readdirSync(assets)) {
        const content = readFileSync(join(assets, name));
        if (!/\.(js|css|json|svg)$/.test(name) || content.length < LEAST_BYTES) continue;
        writeFileSync(join(assets, `${name}.gz`), gzipSync(content, { level: 9 }));
        writeFileSync(join(assets, `${name}.br`), brotliCompressSync(content, { params: { [constants.BROTLI_PARAM_QUALITY]: 9 } }));
      }
    },
  };
}

export default defineConfig({
  plugins: [react(), precompressed()],
  build: { outDir: "build", assetsInlineLimit: 0, chunkSizeWarningLimit: 700 },
  server: {
    // `npm run dev` beside a running server; FITSERVE_API is its address.
    proxy: { "/api": { target: api }, "^/v\\d+(/|$)": { target: api }, "/docs": { target: api } },
  },
});

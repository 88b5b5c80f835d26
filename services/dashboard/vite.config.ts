import { existsSync } from "node:fs";
import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

// The lessons that the pages show: without them the build would be silent, and the course empty.
if (!existsSync(new URL("../../examples/01_perceptron/README.md", import.meta.url))) throw new Error("examples/ is missing beside services/: the pages show its lessons.");

const api = process.env.FITSERVE_API ?? "http://127.0.0.1:8000";

export default defineConfig({
  plugins: [react()],
  build: { outDir: "build", assetsInlineLimit: 0, chunkSizeWarningLimit: 700 },
  server: {
    // `npm run dev` beside a running server; its address is told by FITSERVE_API.
    proxy: { "/api": { target: api }, "/v1": { target: api }, "/v2": { target: api }, "/docs": { target: api } },
  },
});

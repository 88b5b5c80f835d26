/**
 * From a table to a prediction, in TypeScript: both clients are generated from the OpenAPI documents.
 *
 *   curl $FITSERVE_URL/api/v1/openapi.json > control.json
 *   curl $FITSERVE_PREDICT_URL/openapi.json > predict.json
 *   npm install && npm run generate && npm run build && npm start
 */
import createClient from "openapi-fetch";
import type { paths as Control } from "./control.js";
import type { paths as Predict } from "./predict.js";

const headers = { Authorization: `Bearer ${process.env.FITSERVE_API_KEY ?? ""}` };
const api = createClient<Control>({ baseUrl: process.env.FITSERVE_URL ?? "http://127.0.0.1:8000", headers });
const predictions = createClient<Predict>({
  baseUrl: process.env.FITSERVE_PREDICT_URL ?? "http://127.0.0.1:8501",
  headers,
});

/** The answer, or an error that says what was refused. */
function told<T>({ data, error }: { data?: T; error?: unknown }): T {
  if (data === undefined) throw new Error(JSON.stringify(error));
  return data;
}

const model = "typescript";
const made = told(
  await api.POST("/api/v1/datasets/samples", { body: { sample: "circle", name: model, noise: 0, seed: 0, rows: 200, derived: false } }),
);
const spec = {
  dataset: made.name,
  target: "label",
  network: [{ Dense: { units: 8, activation: "tanh" } }],
  training: { optimizer: { Adam: { learning_rate: 0.05 } }, epochs: 40 },
  model,
};
const submitted = told(await api.POST("/api/v1/runs", { body: spec }));
if (!("id" in submitted)) throw new Error("the spec was only checked");

let run = submitted;
while (run.state === "queued" || run.state === "running") {
  await new Promise((resolve) => setTimeout(resolve, 200));
  run = told(await api.GET("/api/v1/runs/{run_id}", { params: { path: { run_id: run.id } } }));
}
if (run.state !== "succeeded") throw new Error(`the run ${run.state}: ${JSON.stringify(run.error)}`);

const examples = [
  { x1: 0, x2: 0 },
  { x1: 5, x2: 5 },
];
for (let attempt = 0; ; attempt++) {
  const answer = await predictions.POST("/v1/models/{model}:classify", {
    params: { path: { model } },
    body: { examples },
  });
  if (answer.data === undefined && attempt < 100) {
    // The prediction service learns of a new version within a second or so.
    await new Promise((resolve) => setTimeout(resolve, 100));
    continue;
  }
  for (const [row, scores] of told(answer).results.entries()) {
    console.log(JSON.stringify({ ...examples[row], scores }));
  }
  break;
}

/** From a table to a prediction: uploads, trains, watches, predicts, and prints each step as a line of JSON. */
import { Fitserve, FitserveError } from "./index.js";

const print = (step: string, value: object) => console.log(JSON.stringify({ step, ...value }));
const client = new Fitserve();
const model = "typescript";

const points = Array.from({ length: 200 }, (_, at) => ({ x: (at % 20) - 9.5, y: Math.floor(at / 20) - 4.5 }));
const csv = ["x,y,side", ...points.map(({ x, y }) => `${x},${y},${Math.hypot(x, y) < 4.6 ? "in" : "out"}`)].join("\n");
const dataset = await client.upload(model, csv);
print("uploaded", { rows: dataset.rows, columns: dataset.columns.map((column) => column.name) });

const spec = {
  dataset: dataset.name,
  target: "side",
  network: [{ Dense: { units: 12, activation: "tanh" } }],
  training: { optimizer: { Adam: { learning_rate: 0.05 } }, epochs: 40 },
  model,
};
try {
  await client.train({ ...spec, target: "sides" });
} catch (error) {
  if (!(error instanceof FitserveError)) throw error;
  print("refused", { status: error.status, message: error.message });
}

const run = await client.train(spec);
let epochs = 0;
const ended = await client.wait(run.id, (event) => {
  if (event.type === "metrics") epochs += 1;
});
print("trained", { state: ended.state, epochs });

const rows = [
  { x: 0, y: 0 },
  { x: 9, y: 4 },
];
const outputs = await client.predict(model, rows);
for (const [at, scores] of (await client.classify(model, rows)).entries()) {
  print("predicted", { ...rows[at], scores, output: outputs[at] });
}

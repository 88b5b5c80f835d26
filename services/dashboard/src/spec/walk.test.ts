import { describe, expect, it } from "vitest";
import { Trainer } from "./trainer";
import { updatedOf, walkOf } from "./walk";
import type { Form } from "./tinynet";

const ROW = { x: 0.7, y: -1.2, target: 1 };
const PENALTY = { kind: "L2", strength: 0.1 } as const;

describe("one row's walk", () => {
  for (const activation of ["tanh", "relu", "sigmoid", "linear"] as const) {
    for (const output of ["sigmoid", "linear"] as const) {
      it(`ends where the trainer's update does: ${activation}, ${output}`, () => {
        const form: Form = { features: ["x1", "x2", "x1_x2"], layers: [3, 2], activation, output };
        const trainer = new Trainer(form, [ROW], [], 4);
        const walk = walkOf(form, trainer.weights.slice(), ROW, 0.3, PENALTY);
        const { train } = trainer.pass(0.3, 1, PENALTY);
        updatedOf(walk).forEach((value, at) => expect(value).toBeCloseTo(trainer.weights[at] ?? 0, 5));
        expect(train).toBeGreaterThanOrEqual(walk.loss);
        const first = walk.layers[0]?.[0];
        expect(first?.delta).toBeCloseTo((first?.byOutput ?? 0) * (first?.slope ?? 0), 10);
        const unit = walk.layers.at(-1)?.[0];
        if (output === "sigmoid") expect(unit?.delta).toBeCloseTo((unit?.byOutput ?? 0) * (unit?.slope ?? 0), 8);
      });
    }
  }
});

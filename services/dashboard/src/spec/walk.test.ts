import { describe, expect, it } from "vitest";
import { Trainer } from "./trainer";
import { updatedOf, walkOf, walkOfPoint, type Net } from "./walk";
import type { Form } from "./tinynet";

const ROW = { x: 0.7, y: -1.2, target: 1 };
const PENALTY = { kind: "L2", strength: 0.1 } as const;

describe("one row's walk", () => {
  for (const activation of ["tanh", "relu", "sigmoid", "linear"] as const) {
    for (const output of ["sigmoid", "linear"] as const) {
      it(`ends where the trainer's update does: ${activation}, ${output}`, () => {
        const form: Form = { features: ["x1", "x2", "x1_x2"], layers: [3, 2], activation, output };
        const trainer = new Trainer(form, [ROW], [], 4);
        const walk = walkOfPoint(form, trainer.weights.slice(), ROW, 0.3, PENALTY);
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

  it("has the derivatives of a softmax's loss and of a mean of squares", () => {
    const hidden = { activation: "tanh", kernel: [[0.3, -0.2], [0.5, 0.4]], bias: [0.1, -0.1], l1: 0.01, l2: 0.02 } as const;
    const output = { kernel: [[0.2, -0.6, 0.4], [0.7, 0.1, -0.3]], bias: [0, 0.2, -0.1], l1: 0, l2: 0 } as const;
    for (const [loss, activation, target] of [["categorical", "softmax", [0, 1, 0]], ["squared", "linear", [0.5, -1, 2]]] as const) {
      const lossAt = (moved: number) => {
        const kernel = [[0.3 + moved, -0.2], [0.5, 0.4]];
        const net: Net = { layers: [{ ...hidden, kernel }, { ...output, activation }], loss };
        return { net, loss: walkOf(net, [0.7, -1.2], target, 0.1).loss + 0.01 * Math.abs(0.3 + moved) + 0.02 * (0.3 + moved) ** 2 };
      };
      const walk = walkOf(lossAt(0).net, [0.7, -1.2], target, 0.1);
      const slopeOfLoss = (lossAt(1e-5).loss - lossAt(-1e-5).loss) / 2e-5;
      expect(walk.layers[0]?.[0]?.terms[0]?.gradient).toBeCloseTo(slopeOfLoss, 7);
      expect(walk.layers[1]?.reduce((sum, unit) => sum + unit.a, 0)).toBeCloseTo(activation === "softmax" ? 1 : (walk.layers[1] ?? []).reduce((sum, unit) => sum + unit.z, 0), 10);
    }
  });
});

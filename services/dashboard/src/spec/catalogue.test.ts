import { describe, expect, it } from "vitest";
import { Catalogue } from "./catalogue";

const schema = {
  $defs: {
    Regularizer: {
      anyOf: [
        { enum: ["L2", "l2"] },
        { type: "object", properties: { L2: { anyOf: [{ $ref: "#/$defs/regularizers.L2" }, { type: "number" }] }, l2: {}, Ridge: { anyOf: [{ $ref: "#/$defs/regularizers.L2" }] } } },
      ],
    },
    "regularizers.L2": { type: "object", properties: { l2: { type: "number", minimum: 0, default: 0.01 } } },
    Layer: { anyOf: [{ type: "object", properties: { Dense: { anyOf: [{ $ref: "#/$defs/layers.Dense" }] } } }] },
    "layers.Dense": {
      type: "object",
      description: "A layer.",
      required: ["units"],
      properties: {
        units: { type: "integer", minimum: 1 },
        activation: { type: ["string", "null"], enum: ["relu", "tanh", null], default: "relu" },
        kernel_regularizer: { anyOf: [{ $ref: "#/$defs/Regularizer" }, { type: "null" }], default: null },
        use_bias: { type: "boolean", default: true },
        learning_rate: { anyOf: [{ type: "number", minimum: 0 }, { $ref: "#/$defs/LearningRateSchedule" }] },
        shape: { type: "array" },
      },
    },
    LearningRateSchedule: {},
  },
};

describe("the catalogue", () => {
  const catalogue = new Catalogue(schema);

  it("finds each class once, under Keras's name", () => {
    expect(catalogue.classes("Regularizer").map((one) => one.name)).toEqual(["L2"]);
    expect(catalogue.classes("Nothing")).toEqual([]);
  });

  it("knows what kind of field an argument needs", () => {
    const dense = catalogue.class("Layer", "Dense");
    expect(Object.fromEntries(dense?.arguments.map((one) => [one.name, one.type]) ?? [])).toEqual({
      units: "integer",
      activation: "choice",
      kernel_regularizer: "component",
      use_bias: "boolean",
      learning_rate: "number-or-component",
      shape: "json",
    });
    expect(dense?.arguments[0]).toMatchObject({ required: true, minimum: 1 });
    expect(dense?.arguments[1]).toMatchObject({ choices: ["relu", "tanh"], nullable: true, default: "relu" });
    expect(dense?.arguments[2]?.group).toBe("Regularizer");
  });
});

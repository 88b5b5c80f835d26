import type { Feature } from "../spec/tinynet";

/** Labels of the playground's features, the same in every language. */
export const FEATURE_NAMES: Record<Feature, string> = {
  x1: "x₁",
  x2: "x₂",
  x1_squared: "x₁²",
  x2_squared: "x₂²",
  x1_x2: "x₁x₂",
  sin_x1: "sin x₁",
  sin_x2: "sin x₂",
};

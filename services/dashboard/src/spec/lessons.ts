/** Starting points for beginners: parts of a spec, each showing one idea of a first course on deep learning. */

import type { Key } from "../i18n";
import { edit, type Json } from "./document";

export interface Lesson {
  id: string;
  title: Key;
  text: Key;
  network: Json;
  training: Json;
}

const dense = (units: number, activation: string, more: Record<string, Json> = {}): Json => ({
  Dense: { units, activation, ...more },
});

export const LESSONS: readonly Lesson[] = [
  {
    id: "perceptron",
    title: "lesson.perceptron",
    text: "lesson.perceptron.text",
    network: [],
    training: { optimizer: { SGD: { learning_rate: 0.1 } }, epochs: 100, batch_size: 32 },
  },
  {
    id: "deep",
    title: "lesson.deep",
    text: "lesson.deep.text",
    network: [dense(128, "relu"), dense(64, "relu")],
    training: { optimizer: "Adam", epochs: 100, batch_size: 32 },
  },
  {
    id: "early",
    title: "lesson.early",
    text: "lesson.early.text",
    network: [dense(128, "relu"), dense(64, "relu")],
    training: {
      optimizer: "Adam",
      epochs: 500,
      batch_size: 32,
      early_stopping: { monitor: "val_loss", patience: 15, restore_best_weights: true },
    },
  },
  {
    id: "regularize",
    title: "lesson.regularize",
    text: "lesson.regularize.text",
    network: [
      dense(128, "relu", { kernel_regularizer: { L2: 0.001 } }),
      { Dropout: 0.2 },
      dense(64, "relu", { kernel_regularizer: { L2: 0.001 } }),
      { Dropout: 0.1 },
    ],
    training: { optimizer: "Adam", epochs: 200, batch_size: 32 },
  },
  {
    id: "momentum",
    title: "lesson.momentum",
    text: "lesson.momentum.text",
    network: [dense(32, "relu"), dense(16, "relu")],
    training: {
      optimizer: {
        SGD: {
          learning_rate: { ExponentialDecay: { initial_learning_rate: 0.1, decay_steps: 100, decay_rate: 0.95 } },
          momentum: 0.9,
          nesterov: true,
        },
      },
      epochs: 100,
      batch_size: 32,
    },
  },
  {
    id: "restarts",
    title: "lesson.restarts",
    text: "lesson.restarts.text",
    network: [dense(8, "tanh"), dense(4, "tanh")],
    training: { optimizer: "Adam", epochs: 100, batch_size: 32, restarts: 8 },
  },
  {
    id: "vanishing",
    title: "lesson.vanishing",
    text: "lesson.vanishing.text",
    network: Array.from({ length: 8 }, () => dense(32, "sigmoid")),
    training: { optimizer: { SGD: { learning_rate: 0.1 } }, epochs: 60, batch_size: 32 },
  },
  {
    id: "batch",
    title: "lesson.batch",
    text: "lesson.batch.text",
    network: [dense(32, "relu")],
    training: { optimizer: { SGD: { learning_rate: 0.1 } }, epochs: 60, batch_size: "full" },
  },
];

/** Replace the text's network and training with a lesson's. */
export function startFrom(text: string, lesson: Lesson): string {
  return edit(edit(text, ["network"], lesson.network), ["training"], lesson.training);
}

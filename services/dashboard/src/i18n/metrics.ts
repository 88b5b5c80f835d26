/** Names of metrics in the pages' language. In English they are Keras's own, as in specs, and written as people do. */

import { currentLanguage } from ".";

const CHINESE: Readonly<Record<string, string>> = {
  accuracy: "準確率",
  auc: "AUC",
  balanced_accuracy: "平衡準確率",
  binary_accuracy: "準確率",
  brier: "Brier 分數",
  categorical_accuracy: "準確率",
  f1: "F1",
  f1_macro: "F1（巨觀平均）",
  f1_score: "F1",
  log_loss: "對數損失",
  loss: "損失",
  mae: "平均絕對誤差",
  mean_absolute_error: "平均絕對誤差",
  mean_squared_error: "均方誤差",
  mse: "均方誤差",
  precision: "精確率",
  r2: "R²",
  r2_score: "R²",
  recall: "召回率",
  rmse: "均方根誤差",
  roc_auc: "ROC AUC",
  root_mean_squared_error: "均方根誤差",
  sparse_categorical_accuracy: "準確率",
  support: "樣本數",
  top_k_categorical_accuracy: "前 k 準確率",
};

const ENGLISH: Readonly<Record<string, string>> = {
  auc: "AUC",
  balanced_accuracy: "balanced accuracy",
  brier: "Brier score",
  f1: "F1",
  f1_macro: "F1 (macro)",
  f1_score: "F1",
  log_loss: "log loss",
  mae: "MAE",
  mse: "MSE",
  r2: "R²",
  r2_score: "R²",
  rmse: "RMSE",
  roc_auc: "ROC AUC",
};

/** `val_accuracy`, or `price.mae` of one target among several; a name that is not known stays as it is. */
export function metricName(name: string): string {
  const chinese = currentLanguage() === "zh-Hant";
  const [, target = "", held = "", plain = ""] = /^(?:(.+)\.)?(val_)?(.+)$/.exec(name) ?? [];
  const known = (chinese ? CHINESE : ENGLISH)[plain] ?? plain;
  return `${target && `${target} `}${known}${held && (chinese ? "（驗證）" : " (validation)")}`;
}

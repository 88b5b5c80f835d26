import { expect, test } from "vitest";
import { inChinese, readerOf } from "./sentences";
import book from "./zh.sentences.json";

const reader = readerOf(book);
const said = (text: string) => inChinese(text, reader);

test("a sentence keeps its values", () => {
  expect(said("Resumed at epoch 12.")).toBe("從第 12 個訓練週期繼續。");
  expect(said("Resumed at trial 2, epoch 12.")).toBe("從嘗試 2 的第 12 個訓練週期繼續。");
  expect(said("The loss became nan in epoch 3: first in layer 'dense' (weights), batch 2.")).toContain("第 2 批變成 nan：最先發生於層 'dense'（weights）");
});

test("what stands inside of a sentence is translated too", () => {
  expect(said("The network's loss on its own training rows is 0.5; boosted trees reach 0.1 on unseen rows. It is too small, or too strongly regularised, for what there is to learn.")).toContain("提升樹在未見過的資料列上為 0.1");
  expect(said("Where 'age' is below 30.0 and 'sex' is 'f' (12 held-out rows, 5.0%), the loss is 0.9; elsewhere it is 0.2, and the best constant answer there has 0.3.")).toContain("'age' 小於 30.0 且 'sex' 為 'f'");
});

test("sentences side by side are translated one by one", () => {
  expect(said("Stopped. Nothing known.")).toBe("Stopped. Nothing known.");
  expect(said("The worker w1 stopped renewing its lease; queued again")).toBe("工作程序 w1 停止更新租約；重新排入佇列");
  expect(said("Training is over; the network is exported. The network is evaluated.")).toBe("訓練已結束；正在匯出神經網路。正在評估神經網路。");
});

test("a sentence in front of another is not swallowed", () => {
  const both = "The network has not learned what there is to learn. On 12 test rows its accuracy is 0.50, against 0.50 of always saying the commonest label; ROC AUC 0.69, its interval from 0.33 to 1.00.";
  expect(said(both)).toBe("神經網路尚未學會可以學到的內容。在 12 個測試資料列上，其準確率為 0.50，而永遠回答最常見類別為 0.50；ROC AUC 0.69，區間 0.33 到 1.00。");
});

test("every template finds itself", () => {
  for (const [template, into] of Object.entries({ ...book.sentences, ...book.problems })) {
    const fill = (text: string) => text.replace(/\{(\d+)\}/g, (_, n: string) => `${Number(n) + 10}`);
    expect(said(fill(template)), template).toBe(fill(into));
  }
});

test("a short template does not swallow a sentence that is not known", () => {
  for (const text of ["This is what nobody has put into the book yet.", "Expected a thing that no one has heard of."]) expect(said(text)).toBe(text);
  expect(said("This is a gzip stream.")).toBe("這是 a gzip stream。");
  expect(said("Column 'b' has an empty name.")).toBe("欄位 'b' 的名稱是空的。");
});

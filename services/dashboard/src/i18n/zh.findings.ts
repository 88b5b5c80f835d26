/** Findings in Chinese, by rule: title and change. Other rules and languages show the server's English. */

interface FindingText {
  title: string;
  answer: string;
}

export const findingsZh: Readonly<Record<string, FindingText | undefined>> = {
  vanishing_gradients: { title: "梯度消失", answer: "以 ReLU 搭配 He 初始化取代 sigmoid 或 tanh" },
  exploding_gradients: { title: "梯度爆炸", answer: "將梯度範數裁切為 1、使用 He 初始化並標準化輸入" },
  dead_relus: { title: "失效的 ReLU 單元", answer: "改用 leaky ReLU 搭配 He 初始化、標準化輸入；學習率偏高時調低" },
  saturated_units: { title: "飽和單元", answer: "標準化輸入、使用 Glorot 初始化；學習率偏高時調低，否則改用 ReLU" },
  learning_rate_too_high: { title: "學習率過高", answer: "學習率降為十分之一；若超過常用值十倍以上，則改用常用值" },
  learning_rate_too_low: { title: "學習率過低", answer: "調高學習率，使權重每個訓練週期移動其大小的百分之幾" },
  stuck_at_baseline: { title: "停在基準線", answer: "移除阻礙：減弱正則化、加入隱藏層、加寬各層、改用 ReLU、減少 dropout、加大步長" },
  restarts_disagree: { title: "各次初始化結果不一致", answer: "梯度下降加上動量，並加寬各層以減少不良的局部極小值；否則增加重複初始化次數" },
  overfitting: { title: "過度擬合", answer: "提前停止，並保留最佳訓練週期的權重" },
  underfitting: { title: "擬合不足", answer: "加寬各層（沒有隱藏層時加入隱藏層）、減弱正則化、減少 dropout" },
  stopped_too_early: { title: "太早停止", answer: "將訓練週期數增為十倍並使用提前停止，或提高 patience" },
  validation_easier: { title: "驗證資料比訓練資料容易", answer: "將 dropout 降為四分之一（最多 0.2），並使用提前停止" },
  few_columns: { title: "少數欄位主導預測", answer: "對第一層的權重加上 0.003 的 L1 正則化" },
  class_imbalance: { title: "類別不平衡", answer: "使用平衡的類別權重" },
  leaking_column: { title: "欄位洩漏答案", answer: "移除該欄位" },
  better_reference: { title: "另一個模型更好", answer: "只經縮放的數值再加上分位數分箱編碼（piecewise_linear）" },
  weak_slice: { title: "部分資料列的預測比猜測更差", answer: "將該切片的欄位加入特徵；已是特徵時，加寬神經網路" },
  target_scale: { title: "目標值的尺度", answer: "標準化目標；預測結果仍以原單位表示" },
};

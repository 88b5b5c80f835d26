/** The course's titles and goals in Chinese, by the lessons' folders. Steps to look at show the lessons' own English. */

export const lessonsZh: Readonly<Record<string, { title: string; goal: string } | undefined>> = {
  "01_perceptron": { title: "感知器", goal: "沒有隱藏層的神經網路將輸入加權相加，再通過 sigmoid：這就是感知器，也稱為邏輯迴歸。它的邊界是一條直線，足以分開兩團點（gauss），卻無法分開圓盤與外圍的環（circle），也無法分開對角的象限（xor）。" },
  "02_hidden_layer": { title: "隱藏層使邊界彎曲", goal: "每個隱藏單元畫一條線，輸出層把這些線組合成彎曲的邊界。有了隱藏層，神經網路就能解決圓盤與互斥或。" },
  "03_wider_deeper": { title: "更寬、更深、更多輸入、更多輸出", goal: "擴大神經網路的四種方法：增加單元、增加層、加入由原欄位算出的輸入，以及一次預測多個類別。" },
  "04_softmax": { title: "多類別的 softmax", goal: "softmax 把輸出轉成總和為一的機率。十個數字，十個機率。" },
  "05_batch_or_stochastic": { title: "批次與隨機梯度下降", goal: "用所有資料列算一步很精確，但步數少；用少量資料列算許多粗略的步，往往更快到達。" },
  "06_learning_rate_decay": { title: "學習率衰減", goal: "大的學習率前進快，但停不下來；小的學習率精確，但慢。先大後小，兼得兩者。" },
  "07_early_stopping": { title: "提前停止與模型複雜度圖", goal: "訓練越久，訓練損失越低，但驗證損失會在某處轉升：神經網路開始記住雜訊。在轉折點停止。" },
  "08_l1_or_l2": { title: "L1 與 L2", goal: "對大的權重加上懲罰，使神經網路不過度依賴任何一個欄位。L1 把權重推到零，因此會挑選欄位；L2 使權重變小，把工作分散到所有欄位。" },
  "09_dropout": { title: "Dropout", goal: "每個批次隨機關閉一部分單元，使神經網路無法依賴任何單一單元，因而較不會過度擬合。" },
  "10_random_restarts": { title: "局部極小值與重複初始化", goal: "梯度下降可能困在局部極小值。從不同的初始權重多次開始，保留最好的一次。" },
  "11_momentum": { title: "動量與 Nesterov", goal: "動量會累積先前的步伐，因此能滾過平坦區，並減少來回震盪。" },
  "12_vanishing_gradients": { title: "梯度消失、tanh 與 ReLU", goal: "在八層的神經網路中，sigmoid 讓梯度逐層縮小，前面的層幾乎不學習；tanh 較好，ReLU 幾乎不縮小梯度。" },
  "13_optimizers": { title: "比較 SGD、RMSprop 與 Adam", goal: "RMSprop 與 Adam 為每個權重調整步長，因此較不受欄位尺度影響；標準化之後，差異就小得多。" },
  "14_regression": { title: "迴歸、ReLU 與 sigmoid", goal: "預測數值時，最後一層不要 sigmoid：它只能給出 0 到 1。隱藏層則可以使用 ReLU 或 sigmoid。" },
  "15_lab_admissions": { title: "實驗：學生錄取", goal: "四百份申請，128 與 64 個單元加上 dropout：把前面的內容用在真實的表格上。" },
  "16_lab_imdb": { title: "實驗：IMDB 影評", goal: "一千個詞、512 個單元：從影評的文字判斷好評或負評。" },
};

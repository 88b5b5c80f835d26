/** Texts about imports. */

import type { sourcesEn } from "./en.sources";

export const sourcesZh: Record<keyof typeof sourcesEn, string> = {
  "import.title": "從資料庫、檔案儲存區或網址匯入",
  "import.kind": "來源",
  "import.kind.sql": "查詢",
  "import.kind.files": "儲存區中的檔案",
  "import.kind.delta": "Delta 資料表",
  "import.kind.https": "網址",
  "import.connection": "連線",
  "import.connection.none": "管理者尚未為此來源設定連線。",
  "import.query": "查詢",
  "import.query.hint": "一個 SELECT；加上 ORDER BY 以固定順序。",
  "import.path": "路徑",
  "import.path.hint": "位於連線的資料夾之下；2026/*.parquet 這類樣式可指定多個檔案。",
  "import.url": "檔案的 https 網址",
  "import.start": "匯入",
  "import.busy": "匯入中…",
  "import.refresh": "重新匯入",
  "import.unchanged": "來源沒有變更。",
};

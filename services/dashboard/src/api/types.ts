/** The API's shapes under short names; they are generated from its OpenAPI document. */

import type { components } from "./schema";

type Schemas = components["schemas"];

export type Kind = Schemas["Column"]["kind"];
export type Column = Schemas["Column"];
export type DatasetInfo = Schemas["DatasetInfo"];
export type DatasetDetail = Schemas["DatasetDetail"];
export type DatasetPage = Schemas["DatasetPage"];
export type Profile = Schemas["Profile"];
export type Relation = Schemas["Relation"];
export type Relations = Schemas["Relations"];
export type RowsPage = Schemas["RowsPage"];
export type SampleInfo = Schemas["SampleInfo"];
export type KeyInfo = Schemas["KeyInfo"];
export type NewKey = Schemas["NewKey"];
export type RunDetail = Schemas["RunInfo"];
export type RunInfo = Schemas["RunInfo"];
export type RunSummary = Schemas["RunSummary"];
export type RunPage = Schemas["Page_RunSummary_"];
export type TrialInfo = Schemas["TrialInfo"];
export type TrialPage = Schemas["Page_TrialInfo_"];
export type Validation = Schemas["Validation"];
export type EventInfo = Schemas["EventInfo"];
export type EpochInfo = Schemas["EpochInfo"];
export type ModelInfo = Schemas["ModelInfo"];
export type ModelDetail = Schemas["ModelDetail"];
export type ModelPage = Schemas["Page_ModelInfo_"];
export type LabelInfo = Schemas["LabelInfo"];
export type VersionInfo = Schemas["VersionInfo"];
export type Traffic = Schemas["Traffic"];
export type DriftReport = Schemas["DriftReport"];
export type Drifted = Omit<Schemas["ColumnDrift"], "column">;
export type SystemInfo = Schemas["SystemInfo"];
export type SurfaceInfo = Schemas["SurfaceInfo"];
export type Evaluation = Schemas["Evaluation"];
export type Importance = Schemas["Importance"];
export type Hardest = Schemas["Hardest"];
export type Findings = Schemas["Findings"];
export type FindingInfo = Schemas["FindingInfo"];
export type Complexity = Schemas["Complexity"];
export type LayerSeries = Schemas["LayerSeries"];
export type Lineage = Schemas["Lineage"];

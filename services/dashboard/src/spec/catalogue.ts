/** The spec's JSON Schema as a catalogue for forms: groups of Keras classes and each class's arguments. */

export interface Argument {
  name: string;
  type: "integer" | "number" | "boolean" | "choice" | "component" | "number-or-component" | "text" | "json";
  /** The group of a component, such as `Regularizer`. */
  group: string | null;
  choices: readonly string[];
  nullable: boolean;
  required: boolean;
  default: unknown;
  minimum: number | null;
  maximum: number | null;
  description: string;
}

export interface ClassInfo {
  name: string;
  description: string;
  arguments: readonly Argument[];
}

interface Schema {
  $ref?: string;
  $defs?: Record<string, Schema>;
  type?: string | string[];
  anyOf?: Schema[];
  oneOf?: Schema[];
  allOf?: Schema[];
  enum?: unknown[];
  const?: unknown;
  properties?: Record<string, Schema>;
  required?: string[];
  default?: unknown;
  description?: string;
  minimum?: number;
  maximum?: number;
  exclusiveMinimum?: number;
  exclusiveMaximum?: number;
  title?: string;
}

export class Catalogue {
  private readonly defs: Record<string, Schema>;

  constructor(private readonly root: Schema) {
    this.defs = root.$defs ?? {};
  }

  private follow(schema: Schema): Schema {
    let here = schema;
    for (let hops = 0; here.$ref && hops < 10; hops += 1) {
      const target = this.defs[here.$ref.replace("#/$defs/", "")];
      if (!target) return here;
      here = { ...target, ...(here.default !== undefined && { default: here.default }), ...(here.description && { description: here.description }) };
    }
    return here;
  }

  /** The classes of a group, in the schema's order. */
  classes(group: string): ClassInfo[] {
    const found = new Map<string, ClassInfo>();
    const known = new Set<string>(); // other names of a class stand in the schema too
    const visit = (schema: Schema): void => {
      const here = this.follow(schema);
      for (const [name, inner] of Object.entries(here.properties ?? {})) {
        if (!/^[A-Z]/.test(name) || found.has(name)) continue;
        const object = this.objectOf(inner);
        const own = JSON.stringify(this.refOf(inner) ?? name);
        if (known.has(own)) continue;
        known.add(own);
        found.set(name, { name, description: object.description ?? here.description ?? "", arguments: this.argumentsOf(object) });
      }
      for (const part of [...(here.anyOf ?? []), ...(here.oneOf ?? [])]) visit(part);
    };
    const top = this.defs[group];
    if (top) visit(top);
    return [...found.values()];
  }

  class(group: string, name: string): ClassInfo | null {
    return this.classes(group).find((one) => one.name === name) ?? null;
  }

  private refOf(schema: Schema): string | undefined {
    return schema.$ref ?? [...(schema.anyOf ?? []), ...(schema.oneOf ?? [])].find((part) => part.$ref)?.$ref;
  }

  /** The mapping among the forms of a class; the others are shorthands. */
  private objectOf(schema: Schema): Schema {
    const here = this.follow(schema);
    if (here.properties) return here;
    for (const part of [...(here.anyOf ?? []), ...(here.oneOf ?? []), ...(here.allOf ?? [])]) {
      const inner = this.follow(part);
      if (inner.properties) return { ...inner, description: here.description ?? inner.description ?? "" };
    }
    return here;
  }

  argumentsOf(object: Schema): Argument[] {
    return Object.entries(object.properties ?? {}).map(([name, schema]) =>
      this.argument(name, schema, (object.required ?? []).includes(name)),
    );
  }

  /** The fields of a plain mapping in the schema, such as `Training` or `EarlyStopping`. */
  fields(definition: string): Argument[] {
    const found = this.defs[definition] ?? (definition === "Spec" ? this.root : undefined);
    return found ? this.argumentsOf(this.objectOf(found)) : [];
  }

  private argument(name: string, schema: Schema, required: boolean): Argument {
    const ways = this.ways(schema);
    const nullable = ways.some((way) => way.type === "null");
    const rest = ways.filter((way) => way.type !== "null");
    const numeric = rest.find((way) => way.type === "number" || way.type === "integer");
    const group = this.groupOf(schema);
    const choices = rest
      .flatMap((way) => way.enum ?? (way.const !== undefined ? [way.const] : []))
      .filter((choice) => choice !== null)
      .map(String);
    const low = numeric?.minimum ?? numeric?.exclusiveMinimum ?? null;
    const high = numeric?.maximum ?? numeric?.exclusiveMaximum ?? null;
    return {
      name,
      type: typeOf(rest, numeric, group, choices),
      group,
      choices,
      nullable,
      required,
      default: schema.default ?? this.follow(schema).default,
      minimum: low,
      maximum: high,
      description: schema.description ?? "",
    };
  }

  private ways(schema: Schema): Schema[] {
    const here = schema.$ref && this.isGroup(schema.$ref) ? schema : this.follow(schema);
    const parts = [...(here.anyOf ?? []), ...(here.oneOf ?? [])];
    if (parts.length > 0) return parts.flatMap((part) => this.ways(part));
    return Array.isArray(here.type) ? here.type.map((type) => ({ ...here, type })) : [here];
  }

  private groupOf(schema: Schema): string | null {
    const refs = [schema, ...(schema.anyOf ?? []), ...(schema.oneOf ?? [])].flatMap((part) => (part.$ref ? [part.$ref] : []));
    const found = refs.find((ref) => this.isGroup(ref));
    return found ? found.replace("#/$defs/", "") : null;
  }

  private isGroup(ref: string): boolean {
    const name = ref.replace("#/$defs/", "");
    return FAMILIES.has(name);
  }
}

const FAMILIES = new Set(["Layer", "Optimizer", "LearningRateSchedule", "Loss", "Metric", "Regularizer", "Constraint", "Initializer"]);

function typeOf(rest: Schema[], numeric: Schema | undefined, group: string | null, choices: readonly string[]): Argument["type"] {
  if (group !== null) return numeric ? "number-or-component" : "component";
  if (choices.length > 0 && !numeric) return "choice";
  if (rest.some((way) => way.type === "array" || way.type === "object")) return "json";
  if (numeric) return numeric.type === "integer" ? "integer" : "number";
  if (rest.some((way) => way.type === "boolean")) return "boolean";
  return rest.some((way) => way.type === "string") ? "text" : "json";
}

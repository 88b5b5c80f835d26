import { useState } from "react";
import { useText } from "../i18n";
import { placeOf, sizesOf, unflatten, type Form } from "../spec/tinynet";
import { NumberInput, Scroll } from "./basics";
import { FEATURE_NAMES } from "./featureNames";
import { rounded } from "./PlayNetwork";

interface Props {
  form: Form;
  weights: ArrayLike<number>;
  onEdit: (place: number, value: number) => void;
}

/** Every weight and bias as a number field: the keyboard's alternative to the drawing's lines. */
export function WeightTable({ form, weights, onEdit }: Props) {
  const t = useText();
  const [open, setOpen] = useState(false);
  return (
    <details onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary className="small">{t("play.weights")}</summary>
      {open && <Tables form={form} weights={weights} onEdit={onEdit} />}
    </details>
  );
}

function Tables({ form, weights, onEdit }: Props) {
  const t = useText();
  const sizes = sizesOf(form);
  return (
    <div className="stack tight">
      {unflatten(form, weights).map(({ kernel, bias }, layer) => {
        const title = layer === sizes.length - 1 ? t("play.output") : t("play.layer", { n: layer + 1 });
        const source = (from: number) => (layer === 0 ? FEATURE_NAMES[form.features[from] ?? "x1"] : String(from + 1));
        const cell = (from: number | null, to: number, value: number, name: string) => (
          <td key={to}>
            <NumberInput small label={`${title} ${to + 1}, ${name}`} value={rounded(value)} onChange={(next) => next !== null && onEdit(placeOf(form, layer, from, to), next)} />
          </td>
        );
        return (
          <Scroll key={layer} label={title}>
            <table className="table dense weights">
              <caption className="small muted">{title}</caption>
              <tbody>
                {kernel.map((row, from) => (
                  <tr key={from}>
                    <th scope="row">{source(from)}</th>
                    {row.map((value, to) => cell(from, to, value, source(from)))}
                  </tr>
                ))}
                <tr>
                  <th scope="row">{t("play.bias")}</th>
                  {bias.map((value, to) => cell(null, to, value, t("play.bias")))}
                </tr>
              </tbody>
            </table>
          </Scroll>
        );
      })}
    </div>
  );
}

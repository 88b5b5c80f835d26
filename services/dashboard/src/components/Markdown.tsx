import type { ReactNode } from "react";

/** Text with `code`, **strong** and *emphasised* words, and links, of which those to the web are kept. */
export function Inline({ text }: { text: string }) {
  const parts = text.split(/(`[^`]+`|\*\*[^*]+\*\*|\*[^*]+\*|\[[^\]]+\]\([^)]+\))/g);
  return <>{parts.map((part, index) => styled(part, index))}</>;
}

function styled(part: string, key: number): ReactNode {
  if (part.startsWith("`")) return <code key={key}>{part.slice(1, -1)}</code>;
  if (part.startsWith("**")) return <strong key={key}>{part.slice(2, -2)}</strong>;
  if (part.startsWith("*") && part.length > 2) return <em key={key}>{part.slice(1, -1)}</em>;
  const link = /^\[([^\]]+)\]\(([^)]+)\)$/.exec(part);
  if (!link) return part;
  const [, text = "", to = ""] = link;
  return /^https?:/.test(to) ? (
    <a key={key} href={to} rel="noreferrer" target="_blank">
      {text}
    </a>
  ) : (
    <span key={key}>{text}</span>
  );
}

/** The documents of this project: headings, paragraphs, lists, tables and code. */
export function Markdown({ text }: { text: string }) {
  return <div className="stack tight">{blocks(text).map((block, index) => drawn(block, index))}</div>;
}

/** Blocks between blank lines; what is fenced stays whole. */
function blocks(text: string): string[] {
  const parts = text.replace(/<!--[\s\S]*?-->/g, "").split(/(```[\s\S]*?```)/g);
  return parts.flatMap((part) => (part.startsWith("```") ? [part] : part.split(/\n\s*\n/))).filter((part) => part.trim() !== "");
}

function drawn(block: string, key: number): ReactNode {
  const lines = block.trim().split("\n");
  const [first = ""] = lines;
  if (block.startsWith("```"))
    return (
      <pre key={key} className="code" tabIndex={0}>
        {lines.slice(1, -1).join("\n")}
      </pre>
    );
  const heading = /^(#+) (.*)$/.exec(first);
  if (heading) {
    const [, marks = "#", title = ""] = heading;
    const Level = marks.length <= 2 ? "h2" : "h3";
    return (
      <div key={key} className="stack tight">
        <Level>
          <Inline text={title} />
        </Level>
        {lines.length > 1 && drawn(lines.slice(1).join("\n"), 0)}
      </div>
    );
  }
  if (first.startsWith("|")) return <MarkdownTable key={key} lines={lines} />;
  if (/^([-*]|\d+\.) /.test(first)) {
    const items = block.trim().split(/\n(?=(?:[-*]|\d+\.) )/).map((item) => item.replace(/^([-*]|\d+\.) /, "").replace(/\n\s*/g, " "));
    return (
      <ul key={key}>
        {items.map((item, index) => (
          <li key={index}>
            <Inline text={item} />
          </li>
        ))}
      </ul>
    );
  }
  return (
    <p key={key}>
      <Inline text={lines.join(" ")} />
    </p>
  );
}

function MarkdownTable({ lines }: { lines: readonly string[] }) {
  const cells = (line: string) => line.replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());
  const [head = "", , ...rows] = lines;
  return (
    <div className="table-wrap" tabIndex={0} role="group">
      <table className="table dense">
        <thead>
          <tr>
            {cells(head).map((cell, index) => (
              <th key={index} scope="col">
                <Inline text={cell} />
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map((row, at) => (
            <tr key={at}>
              {cells(row).map((cell, index) => (
                <td key={index}>
                  <Inline text={cell} />
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

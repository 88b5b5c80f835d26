import js from "@eslint/js";
import hooks from "eslint-plugin-react-hooks";
import tseslint from "typescript-eslint";

export default tseslint.config(
  { ignores: ["build", "node_modules", "src/api/schema.d.ts"] },
  js.configs.recommended,
  tseslint.configs.strict,
  tseslint.configs.stylistic,
  hooks.configs.flat["recommended-latest"],
  {
    rules: {
      // Column names and cell values are text, never markup.
      "no-restricted-properties": [
        "error",
        { property: "innerHTML", message: "Text nodes only." },
        { property: "outerHTML", message: "Text nodes only." },
        { property: "insertAdjacentHTML", message: "Text nodes only." },
      ],
      "no-restricted-syntax": [
        "error",
        { selector: "JSXAttribute[name.name='dangerouslySetInnerHTML']", message: "Text nodes only." },
      ],
      "no-eval": "error",
      "@typescript-eslint/consistent-type-definitions": ["error", "interface"],
      "@typescript-eslint/no-non-null-assertion": "error",
    },
  },
);

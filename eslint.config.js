import js from "@eslint/js";
import globals from "globals";

export default [
  { ignores: [".venv/", "runs/", "build/", "dist/", "tests/golden/"] },
  js.configs.recommended,
  {
    rules: {
      eqeqeq: "error",
      "no-implicit-globals": "error",
      "no-shadow": "error",
      "one-var": ["error", "never"],
      "prefer-const": "error",
    },
  },
  {
    // The pages.
    files: [
      "raybc/dashboard/static/*.js",
      "raybc/report/page.js",
      "raybc/report/report.js",
      "raybc/report/several.js",
      "raybc/report/shared/*.js",
    ],
    languageOptions: { sourceType: "module", globals: { ...globals.browser, Plotly: "readonly" } },
    rules: { "no-var": "error" },
  },
  {
    // Part of a document, and a check that a test runs in a page.
    files: ["raybc/report/data.js", "tests/*.js"],
    languageOptions: { sourceType: "script", globals: { ...globals.browser, Plotly: "readonly" } },
  },
];

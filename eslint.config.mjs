// Rules for the scripts of reports: errors only, since how they look is a matter of taste.
const browser = [
  "atob", "Blob", "clearInterval", "DecompressionStream", "document", "DOMParser", "fetch",
  "getComputedStyle", "getSelection", "IntersectionObserver", "navigator", "requestAnimationFrame",
  "ResizeObserver", "Response", "scrollX", "scrollY", "setInterval", "setTimeout",
  "structuredClone", "URL", "window",
];

export default [
  {
    files: ["reports/qsearch_reports/page/scripts/*.js"],
    languageOptions: {
      ecmaVersion: 2024,
      sourceType: "module",
      globals: Object.fromEntries([...browser, "Plotly"].map((name) => [name, "readonly"])),
    },
    linterOptions: { reportUnusedDisableDirectives: "error" },
    rules: {
      "array-callback-return": "error",
      "consistent-return": "error",
      "eqeqeq": "error",
      "no-const-assign": "error",
      "no-dupe-args": "error",
      "no-dupe-keys": "error",
      "no-import-assign": "error",
      "no-redeclare": "error",
      "no-self-compare": "error",
      "no-shadow": "error",
      "no-undef": "error",
      "no-unreachable": "error",
      "no-unused-vars": "error",
      "no-use-before-define": ["error", { functions: false }],
      "no-var": "error",
      "prefer-const": "error",
      "use-isnan": "error",
    },
  },
];

// Parses queries with the grammar of Grafana's editor: a JSON list of texts on standard input, a list of what it thinks of
// each on standard output: null, or the text before the first place that it does not understand.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";

const require = createRequire(path.join(process.env.TRACEHOUSE_NODE_MODULES, "here.js"));
const { parser } = require("@grafana/lezer-traceql");

const verdicts = JSON.parse(readFileSync(0, "utf8")).map((text) => {
  let fault = null;
  parser.parse(text).iterate({
    enter(node) {
      if (node.type.isError && fault === null) {
        fault = text.slice(0, node.from);
      }
    },
  });
  return fault;
});
process.stdout.write(JSON.stringify(verdicts));

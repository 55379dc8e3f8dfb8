// Sends a trace with OpenTelemetry's SDK for Node, as OTLP/HTTP with JSON, and prints the spans that it sent, one JSON
// object a line, in the form that `senders.py` reads. Arguments: URL, compression (none or gzip), service name.
import { createRequire } from "node:module";
import path from "node:path";

const require = createRequire(path.join(process.env.TRACEHOUSE_NODE_MODULES, "here.js"));
const { SpanKind, SpanStatusCode, TraceFlags, context, trace } = require("@opentelemetry/api");
const { OTLPTraceExporter } = require("@opentelemetry/exporter-trace-otlp-http");
const { resourceFromAttributes } = require("@opentelemetry/resources");
const { BasicTracerProvider, InMemorySpanExporter, SimpleSpanProcessor } = require("@opentelemetry/sdk-trace-base");

const [url, compression, service] = process.argv.slice(2);

const finished = new InMemorySpanExporter();
const provider = new BasicTracerProvider({
  resource: resourceFromAttributes({
    "service.name": service,
    "service.namespace": "clients",
    "process.pid": 4711,
    "process.command_args": ["node", "send.mjs"],
  }),
  spanProcessors: [new SimpleSpanProcessor(finished)],
});
const tracer = provider.getTracer("clients-node", "1.2.3");

const seconds = Math.floor(Date.now() / 1000) - 60;
const at = (nanos) => [seconds, nanos];

const root = tracer.startSpan("GET /node", {
  kind: SpanKind.SERVER,
  startTime: at(1),
  attributes: {
    "clients.sender": service,
    "http.request.method": "GET",
    "http.response.status_code": 200,
    "test.text": "gr\u00fc\u00df \u{1f980} \"quoted\" \\ \n end",
    "test.empty_text": "",
    "test.int": 42,
    "test.large": Number.MAX_SAFE_INTEGER,
    "test.negative": -7,
    "test.float": 0.25,
    "test.small": -1.5e-7,
    "test.true": true,
    "test.false": false,
    "test.texts": ["a", "", null, "b"],
    "test.ints": [1, 2, 3],
    "test.floats": [0.5, 1.5],
    "test.bools": [true, false],
    "test.none": [],
  },
});
root.addEvent("cache miss", { key: "user:1", attempt: 2 }, at(500));
root.addEvent("bare", at(501));

const inRoot = trace.setSpan(context.active(), root);
const child = tracer.startSpan(
  "SELECT users",
  {
    kind: SpanKind.CLIENT,
    startTime: at(1000),
    attributes: { "clients.sender": service, "db.system.name": "postgresql", "http.response.status_code": "200" },
    links: [
      {
        context: {
          traceId: "0af7651916cd43dd8448eb211c80319c",
          spanId: "b7ad6b7169203331",
          traceFlags: TraceFlags.SAMPLED,
          isRemote: true,
        },
        attributes: { "link.reason": "retry", "link.position": 3 },
      },
    ],
  },
  inRoot,
);
child.setStatus({ code: SpanStatusCode.ERROR, message: "deadlock detected" });
child.end(at(250_000_000));
root.setStatus({ code: SpanStatusCode.OK });
root.end(at(999_999_999));

const spans = finished.getFinishedSpans();
const exporter = new OTLPTraceExporter({ url, compression, timeoutMillis: 20_000 });
const result = await new Promise((resolve) => exporter.export(spans, resolve));
if (result.code !== 0) {
  throw result.error ?? new Error("the exporter failed");
}
await exporter.shutdown();

const typed = (value) => {
  if (value === null || value === undefined) return ["empty"];
  if (Array.isArray(value)) return ["array", value.map(typed)];
  if (typeof value === "string") return ["str", value];
  if (typeof value === "boolean") return ["bool", value];
  return [Number.isInteger(value) ? "int" : "float", String(value)];
};
const typedAll = (attributes) =>
  Object.fromEntries(Object.entries(attributes ?? {}).map(([key, value]) => [key, typed(value)]));
const nanos = ([whole, rest]) => String(BigInt(whole) * 1_000_000_000n + BigInt(rest));
for (const span of spans) {
  const { traceId, spanId } = span.spanContext();
  console.log(
    JSON.stringify({
      traceId,
      spanId,
      parentSpanId: span.parentSpanContext?.spanId ?? null,
      name: span.name,
      kind: SpanKind[span.kind].toLowerCase(),
      start: nanos(span.startTime),
      end: nanos(span.endTime),
      statusCode: SpanStatusCode[span.status.code].toLowerCase(),
      statusMessage: span.status.message ?? "",
      attributes: typedAll(span.attributes),
      events: span.events.map(({ name, time, attributes }) => ({
        name,
        time: nanos(time),
        attributes: typedAll(attributes),
      })),
      links: span.links.map(({ context, attributes }) => ({
        traceId: context.traceId,
        spanId: context.spanId,
        isRemote: context.isRemote === true,
        traceFlags: context.traceFlags,
        attributes: typedAll(attributes),
      })),
      traceFlags: span.spanContext().traceFlags,
      resource: typedAll(span.resource.attributes),
      scope: { name: span.instrumentationScope.name, version: span.instrumentationScope.version },
    }),
  );
}

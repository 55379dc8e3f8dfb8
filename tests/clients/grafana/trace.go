package main

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/golang/protobuf/proto" //nolint:staticcheck // What the data source decodes with.
	"github.com/grafana/tempo/pkg/tempopb"
	common "github.com/grafana/tempo/pkg/tempopb/common/v1"
	tracepb "github.com/grafana/tempo/pkg/tempopb/trace/v1"
)

// row is what a panel shows of a span.
type row struct {
	TraceID    string         `json:"traceID"`
	SpanID     string         `json:"spanID"`
	ParentID   string         `json:"parentSpanID"`
	Name       string         `json:"name"`
	Kind       string         `json:"kind"`
	Service    string         `json:"service"`
	Scope      string         `json:"scope"`
	Version    string         `json:"version"`
	Status     string         `json:"status"`
	Message    string         `json:"message"`
	State      string         `json:"traceState"`
	Start      uint64         `json:"start"`
	End        uint64         `json:"end"`
	Attributes map[string]any `json:"attributes"`
	Events     int            `json:"events"`
	Links      int            `json:"links"`
}

// trace asks for a trace by both versions of the route, the older one only when the newer does not know the trace, and
// makes rows of it. Parts that protobuf may leave out are used without a look, so that what is missing is a panic.
func trace(base, id string) answer {
	status, body, err := fetch(base+"/api/v2/traces/"+id, inProtobuf)
	if err != nil {
		return failed(err)
	}
	var found tempopb.TraceByIDResponse
	switch {
	case status == http.StatusNotFound:
		if status, body, err = fetch(base+"/api/traces/"+id, inProtobuf); err != nil {
			return failed(err)
		}
		found.Trace = &tempopb.Trace{}
		err = proto.Unmarshal(body, found.Trace)
	case status == http.StatusOK:
		err = proto.Unmarshal(body, &found)
	}
	if status != http.StatusOK {
		return answer{Status: status, Error: string(body)}
	}
	if err != nil {
		return failed(err)
	}
	if found.Status != tempopb.PartialStatus_COMPLETE {
		return failed(fmt.Errorf("the trace is %v: %s", found.Status, found.Message))
	}
	rows := []row{}
	for _, resource := range found.Trace.ResourceSpans {
		attributes := resource.Resource.Attributes
		service := "OTLPResourceNoServiceName"
		for _, attribute := range attributes {
			if attribute.Key == "service.name" {
				service = attribute.Value.GetStringValue()
			}
		}
		for _, scope := range resource.ScopeSpans {
			for _, span := range scope.Spans {
				rows = append(rows, row{
					TraceID: hex.EncodeToString(span.TraceId), SpanID: hex.EncodeToString(span.SpanId),
					ParentID: hex.EncodeToString(span.ParentSpanId), Name: span.Name, Kind: span.Kind.String(),
					Service: service, Scope: scope.Scope.Name, Version: scope.Scope.Version,
					Status: span.Status.Code.String(), Message: span.Status.Message, State: span.TraceState,
					Start: span.StartTimeUnixNano, End: span.EndTimeUnixNano,
					Attributes: scalars(span), Events: len(span.Events), Links: len(span.Links),
				})
			}
		}
	}
	text, err := json.Marshal(rows)
	if err != nil {
		return failed(err)
	}
	return answer{Status: status, Messages: 1, Body: text}
}

// scalars are the attributes of a span that are not lists, maps or bytes.
func scalars(span *tracepb.Span) map[string]any {
	attributes := map[string]any{}
	for _, attribute := range span.Attributes {
		switch value := attribute.Value.GetValue().(type) {
		case *common.AnyValue_StringValue:
			attributes[attribute.Key] = value.StringValue
		case *common.AnyValue_IntValue:
			attributes[attribute.Key] = value.IntValue
		case *common.AnyValue_DoubleValue:
			attributes[attribute.Key] = fmt.Sprint(value.DoubleValue)
		case *common.AnyValue_BoolValue:
			attributes[attribute.Key] = value.BoolValue
		}
	}
	return attributes
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/gogo/protobuf/jsonpb"
	"github.com/gogo/protobuf/proto"
	"github.com/grafana/tempo/pkg/tempopb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// streamTimeout bounds a call.
const streamTimeout = 30 * time.Second

// stream calls a method of the service on the port of HTTP. The request is that of the types, as JSON.
func stream(address, method string, text json.RawMessage) answer {
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return failed(err)
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), streamTimeout)
	defer cancel()
	client := tempopb.NewStreamingQuerierClient(connection)
	switch method {
	case "Search":
		return call(ctx, text, client.Search, &searches{})
	case "SearchTags":
		return call(ctx, text, client.SearchTags, &last[*tempopb.SearchTagsResponse]{})
	case "SearchTagsV2":
		return call(ctx, text, client.SearchTagsV2, &last[*tempopb.SearchTagsV2Response]{})
	case "SearchTagValues":
		return call(ctx, text, client.SearchTagValues, &last[*tempopb.SearchTagValuesResponse]{})
	case "SearchTagValuesV2":
		return call(ctx, text, client.SearchTagValuesV2, &last[*tempopb.SearchTagValuesV2Response]{})
	case "MetricsQueryRange":
		return call(ctx, text, client.MetricsQueryRange, &ranges{})
	case "MetricsQueryInstant":
		return call(ctx, text, client.MetricsQueryInstant, &last[*tempopb.QueryInstantResponse]{})
	}
	return failed(fmt.Errorf("no method %q", method))
}

// merge is how the messages of a method become one.
type merge[M any] interface {
	add(M) error
	result() proto.Message
}

// pointer is a *T that is a message.
type pointer[T any] interface {
	*T
	proto.Message
}

func call[R any, P pointer[R], M proto.Message, S interface{ Recv() (M, error) }](
	ctx context.Context, text json.RawMessage,
	method func(context.Context, P, ...grpc.CallOption) (S, error), merged merge[M],
) answer {
	request := P(new(R))
	if len(text) > 0 {
		if err := jsonpb.UnmarshalString(string(text), request); err != nil {
			return failed(err)
		}
	}
	messages, err := method(ctx, request)
	if err != nil {
		return failed(err)
	}
	for count := 0; ; count++ {
		message, err := messages.Recv()
		if errors.Is(err, io.EOF) {
			if count == 0 {
				return failed(errors.New("the stream ended without a message"))
			}
			return decoded(200, count, merged.result())
		}
		if err != nil {
			return failed(err)
		}
		if err := merged.add(message); err != nil {
			return failed(err)
		}
	}
}

// last keeps the last message, as for answers of which each is complete.
type last[M proto.Message] struct{ message M }

func (l *last[M]) add(message M) error {
	l.message = message
	return nil
}

func (l *last[M]) result() proto.Message { return l.message }

// searches keeps what came first of each trace, and the latest progress.
type searches struct{ merged tempopb.SearchResponse }

func (s *searches) add(message *tempopb.SearchResponse) error {
	for _, trace := range message.Traces {
		for _, known := range s.merged.Traces {
			if known.TraceID == trace.TraceID && !proto.Equal(known, trace) {
				return fmt.Errorf("a trace changes after it was sent: %v, %v", known, trace)
			}
		}
	}
	if before, now := s.merged.Metrics, message.Metrics; before != nil && now.CompletedJobs < before.CompletedJobs {
		return fmt.Errorf("progress goes back from %d to %d", before.CompletedJobs, now.CompletedJobs)
	}
	for _, trace := range message.Traces {
		if !s.has(trace.TraceID) {
			s.merged.Traces = append(s.merged.Traces, trace)
		}
	}
	s.merged.Metrics = message.Metrics
	return nil
}

func (s *searches) has(id string) bool {
	for _, trace := range s.merged.Traces {
		if trace.TraceID == id {
			return true
		}
	}
	return false
}

func (s *searches) result() proto.Message { return &s.merged }

// ranges puts samples of one series and time in place of earlier ones.
type ranges struct{ merged tempopb.QueryRangeResponse }

func (r *ranges) add(message *tempopb.QueryRangeResponse) error {
	for _, series := range message.Series {
		name := labels(series)
		var known *tempopb.TimeSeries
		for _, candidate := range r.merged.Series {
			if labels(candidate) == name {
				known = candidate
			}
		}
		if known == nil {
			r.merged.Series = append(r.merged.Series, series)
			continue
		}
		for _, sample := range series.Samples {
			put(known, sample)
		}
		known.Exemplars = append(known.Exemplars, series.Exemplars...)
	}
	r.merged.Metrics, r.merged.Status, r.merged.Message = message.Metrics, message.Status, message.Message
	return nil
}

func labels(series *tempopb.TimeSeries) string {
	var text strings.Builder
	for _, label := range series.Labels {
		fmt.Fprintf(&text, "%s=%v;", label.Key, label.Value)
	}
	return text.String()
}

func put(series *tempopb.TimeSeries, sample tempopb.Sample) {
	at := 0
	for at < len(series.Samples) && series.Samples[at].TimestampMs < sample.TimestampMs {
		at++
	}
	if at < len(series.Samples) && series.Samples[at].TimestampMs == sample.TimestampMs {
		series.Samples[at] = sample
		return
	}
	series.Samples = append(series.Samples[:at], append([]tempopb.Sample{sample}, series.Samples[at:]...)...)
}

func (r *ranges) result() proto.Message { return &r.merged }

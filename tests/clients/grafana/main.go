// Command grafana asks a server as Grafana's data source for Tempo does, and decodes the answers with the same published
// types and the same decoder, to which a field that the types do not have is an error.
//
// It reads one request per line and writes one answer per line, both as JSON:
//
//	{"get": "/api/search?q=...", "accept": "application/json"}     GET, decoded strictly
//	{"trace": "<id>"}                                              both versions of the route, as for "trace by id"
//	{"stream": "Search", "request": {"Query": "{}"}}               a call of StreamingQuerier, merged as Grafana merges
//	{"jaeger": {"backend": "host:port", "service": "..."}}         Jaeger's questions to Tempo's bridge for it
//
// An answer has "status" and "body"; "error" says what a decoder did not take, or what the server refused.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/golang/protobuf/jsonpb" //nolint:staticcheck // What the data source decodes with.
	"github.com/golang/protobuf/proto"  //nolint:staticcheck // As above.
	"github.com/grafana/tempo/pkg/tempopb"
)

// lineBytesMax bounds a request.
const lineBytesMax = 1 << 20

type request struct {
	Get     string          `json:"get"`
	Accept  string          `json:"accept"`
	Trace   string          `json:"trace"`
	Stream  string          `json:"stream"`
	Request json.RawMessage `json:"request"`
	Jaeger  *lookup         `json:"jaeger"`
}

type answer struct {
	Status   int             `json:"status,omitempty"`
	Body     json.RawMessage `json:"body,omitempty"`
	Messages int             `json:"messages,omitempty"`
	Error    string          `json:"error,omitempty"`
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: grafana http://host:port < requests")
		os.Exit(2)
	}
	base := strings.TrimSuffix(os.Args[1], "/")
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, lineBytesMax)
	answers := json.NewEncoder(os.Stdout)
	for lines.Scan() {
		if err := answers.Encode(ask(base, lines.Bytes())); err != nil {
			panic(err)
		}
	}
	if err := lines.Err(); err != nil {
		panic(err)
	}
}

func ask(base string, line []byte) answer {
	var wanted request
	if err := json.Unmarshal(line, &wanted); err != nil {
		return failed(err)
	}
	switch {
	case wanted.Get != "":
		return get(base, wanted.Get, wanted.Accept)
	case wanted.Trace != "":
		return trace(base, wanted.Trace)
	case wanted.Jaeger != nil:
		return jaeger(*wanted.Jaeger)
	default:
		return stream(strings.TrimPrefix(base, "http://"), wanted.Stream, wanted.Request)
	}
}

func failed(err error) answer {
	return answer{Error: err.Error()}
}

func fetch(url, accept string) (int, []byte, error) {
	message, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return 0, nil, err
	}
	message.Header.Set("Accept", accept)
	response, err := http.DefaultClient.Do(message)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, nil, err
	}
	if kind := response.Header.Get("Content-Type"); response.StatusCode == http.StatusOK && kind != accept {
		return 0, nil, fmt.Errorf("%s answers %q to a request for %q", url, kind, accept)
	}
	return response.StatusCode, body, nil
}

const (
	inJSON     = "application/json"
	inProtobuf = "application/protobuf"
)

func get(base, path, accept string) answer {
	if accept == "" {
		accept = inJSON
	}
	status, body, err := fetch(base+path, accept)
	if err != nil {
		return failed(err)
	}
	if status != http.StatusOK {
		return answer{Status: status, Error: string(body)}
	}
	message, err := messageOf(path)
	if err != nil {
		return failed(err)
	}
	if accept == inProtobuf {
		err = proto.Unmarshal(body, message)
	} else if trace, ok := message.(*tempopb.Trace); ok {
		// The first version has a name of its own for the list.
		err = tempopb.UnmarshalFromJSONV1(body, trace)
	} else {
		err = jsonpb.UnmarshalString(string(body), message)
	}
	if err != nil {
		return answer{Status: status, Error: fmt.Sprintf("%T: %v: %s", message, err, body)}
	}
	return decoded(status, 1, message)
}

// messageOf returns an empty message of the type that a route answers.
func messageOf(path string) (proto.Message, error) {
	path, _, _ = strings.Cut(path, "?")
	switch {
	case path == "/api/search":
		return &tempopb.SearchResponse{}, nil
	case path == "/api/search/tags":
		return &tempopb.SearchTagsResponse{}, nil
	case path == "/api/v2/search/tags":
		return &tempopb.SearchTagsV2Response{}, nil
	case strings.HasPrefix(path, "/api/search/tag/"):
		return &tempopb.SearchTagValuesResponse{}, nil
	case strings.HasPrefix(path, "/api/v2/search/tag/"):
		return &tempopb.SearchTagValuesV2Response{}, nil
	case path == "/api/metrics/query_range":
		return &tempopb.QueryRangeResponse{}, nil
	case path == "/api/metrics/query":
		return &tempopb.QueryInstantResponse{}, nil
	case strings.HasPrefix(path, "/api/traces/"):
		return &tempopb.Trace{}, nil
	case strings.HasPrefix(path, "/api/v2/traces/"):
		return &tempopb.TraceByIDResponse{}, nil
	}
	return nil, fmt.Errorf("no message is known for %s", path)
}

func decoded(status, messages int, message proto.Message) answer {
	text, err := (&jsonpb.Marshaler{}).MarshalToString(message)
	if err != nil {
		return failed(err)
	}
	return answer{Status: status, Messages: messages, Body: json.RawMessage(text)}
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/jaegertracing/jaeger/proto-gen/storage_v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// lookup is what Jaeger's user interface asks its storage.
type lookup struct {
	Backend string            `json:"backend"`
	Service string            `json:"service"`
	Name    string            `json:"name"`
	Tags    map[string]string `json:"tags"`
	Start   time.Time         `json:"start"`
	End     time.Time         `json:"end"`
}

// found is what it shows: the services and operations to choose from, and the names of the spans of each trace.
type found struct {
	Services   []string            `json:"services"`
	Operations []string            `json:"operations"`
	Traces     map[string][]string `json:"traces"`
}

// jaeger asks Tempo's bridge, which has its data from the server under test.
func jaeger(asked lookup) answer {
	connection, err := grpc.NewClient(asked.Backend, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return failed(err)
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), streamTimeout)
	defer cancel()
	client := storage_v1.NewSpanReaderPluginClient(connection)
	services, err := client.GetServices(ctx, &storage_v1.GetServicesRequest{}, grpc.WaitForReady(true))
	if err != nil {
		return failed(err)
	}
	operations, err := client.GetOperations(ctx, &storage_v1.GetOperationsRequest{Service: asked.Service})
	if err != nil {
		return failed(err)
	}
	query := storage_v1.TraceQueryParameters{
		ServiceName: asked.Service, OperationName: asked.Name, Tags: asked.Tags,
		StartTimeMin: asked.Start, StartTimeMax: asked.End, NumTraces: 20,
	}
	chunks, err := client.FindTraces(ctx, &storage_v1.FindTracesRequest{Query: &query})
	if err != nil {
		return failed(err)
	}
	traces := map[string][]string{}
	for {
		chunk, err := chunks.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return failed(err)
		}
		for _, span := range chunk.Spans {
			id := fmt.Sprintf("%016x%016x", span.TraceID.High, span.TraceID.Low)
			traces[id] = append(traces[id], span.OperationName)
		}
	}
	text, err := json.Marshal(found{services.Services, operations.OperationNames, traces})
	if err != nil {
		return failed(err)
	}
	return answer{Status: 200, Messages: 1, Body: text}
}

//go:build programs

package main

// Programs of Tempo that are built with this module's versions, so that go.sum pins them: its command line, and the bridge
// that lets Jaeger read it.
import (
	_ "github.com/grafana/tempo/cmd/tempo-cli"
	_ "github.com/grafana/tempo/cmd/tempo-query"
)

// Command deploy checks the files of deploy/ with the code of the programs that read them: the compose file by the
// reference implementation of its specification, and the log shipper's configuration by its own parser.
//
//	deploy docker-compose.yml config.alloy
//
// It prints the compose project as it was understood, as JSON.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/grafana/alloy/syntax/ast"
	"github.com/grafana/alloy/syntax/parser"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: deploy docker-compose.yml config.alloy")
		os.Exit(2)
	}
	if err := check(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func check(compose, shipper string) error {
	details := types.ConfigDetails{
		WorkingDir:  filepath.Dir(compose),
		ConfigFiles: []types.ConfigFile{{Filename: compose}},
	}
	project, err := loader.LoadWithContext(context.Background(), details, func(options *loader.Options) {
		options.SetProjectName("tracehouse", true)
	})
	if err != nil {
		return err
	}
	source, err := os.ReadFile(shipper)
	if err != nil {
		return err
	}
	file, err := parser.ParseFile(shipper, source)
	if err != nil {
		return err
	}
	blocks := []string{}
	for _, statement := range file.Body {
		if block, ok := statement.(*ast.BlockStmt); ok {
			blocks = append(blocks, block.GetBlockName())
		}
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]any{"compose": project, "shipper": blocks})
}

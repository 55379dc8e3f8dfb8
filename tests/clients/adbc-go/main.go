// Does what programs with the ADBC driver for Go do, and prints each answer as a line of JSON: a name and a value.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/apache/arrow-adbc/go/adbc"
	"github.com/apache/arrow-adbc/go/adbc/driver/flightsql"
	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
)

func main() {
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(uri, service string) error {
	ctx := context.Background()
	driver := flightsql.NewDriver(memory.DefaultAllocator)
	database, err := driver.NewDatabase(map[string]string{adbc.OptionKeyURI: uri})
	if err != nil {
		return err
	}
	defer database.Close()
	connection, err := database.Open(ctx)
	if err != nil {
		return err
	}
	defer connection.Close()

	for _, step := range []func(context.Context, adbc.Connection, string) error{describe, query, bind, partitions} {
		if err := step(ctx, connection, service); err != nil {
			return err
		}
	}
	if err := refuse(ctx, connection); err != nil {
		return err
	}
	return authenticate(ctx, driver, uri)
}

func describe(ctx context.Context, connection adbc.Connection, _ string) error {
	info, err := connection.GetInfo(ctx, []adbc.InfoCode{adbc.InfoVendorName, adbc.InfoVendorSql})
	if err := show("info", info, err); err != nil {
		return err
	}
	objects, err := connection.GetObjects(ctx, adbc.ObjectDepthColumns, nil, nil, nil, nil, nil)
	if err := show("objects", objects, err); err != nil {
		return err
	}
	types, err := connection.GetTableTypes(ctx)
	if err := show("table types", types, err); err != nil {
		return err
	}
	schema, err := connection.GetTableSchema(ctx, nil, nil, "spans")
	if err != nil {
		return err
	}
	columns := map[string]string{}
	for _, field := range schema.Fields() {
		columns[field.Name] = field.Type.String()
	}
	return print("schema", columns)
}

func query(ctx context.Context, connection adbc.Connection, service string) error {
	statement, err := connection.NewStatement()
	if err != nil {
		return err
	}
	defer statement.Close()
	text := "SELECT * FROM spans WHERE service_name = '" + service + "' ORDER BY span_id"
	if err := statement.SetSqlQuery(text); err != nil {
		return err
	}
	rows, _, err := statement.ExecuteQuery(ctx)
	return show("spans", rows, err)
}

// Three rows of parameters, whose answers come one after the other.
func bind(ctx context.Context, connection adbc.Connection, service string) error {
	statement, err := connection.NewStatement()
	if err != nil {
		return err
	}
	defer statement.Close()
	text := "SELECT ? AS name, count(*) AS spans FROM spans WHERE service_name = ? AND duration_nano >= ?"
	if err := statement.SetSqlQuery(text); err != nil {
		return err
	}
	if err := statement.Prepare(ctx); err != nil {
		return err
	}
	schema := arrow.NewSchema([]arrow.Field{
		{Name: "a", Type: arrow.BinaryTypes.String},
		{Name: "b", Type: arrow.BinaryTypes.String},
		{Name: "c", Type: arrow.PrimitiveTypes.Int64},
	}, nil)
	builder := array.NewRecordBuilder(memory.DefaultAllocator, schema)
	defer builder.Release()
	builder.Field(0).(*array.StringBuilder).AppendValues([]string{"all", "none", "nobody"}, nil)
	builder.Field(1).(*array.StringBuilder).AppendValues([]string{service, service, "nobody"}, nil)
	builder.Field(2).(*array.Int64Builder).AppendValues([]int64{0, 1 << 62, 0}, nil)
	if err := statement.Bind(ctx, builder.NewRecord()); err != nil {
		return err
	}
	rows, _, err := statement.ExecuteQuery(ctx)
	return show("bound", rows, err)
}

// Where the answer is, and from there the answer, as schedulers of distributed work do it.
func partitions(ctx context.Context, connection adbc.Connection, _ string) error {
	statement, err := connection.NewStatement()
	if err != nil {
		return err
	}
	defer statement.Close()
	if err := statement.SetSqlQuery("SELECT count(*) AS spans FROM spans"); err != nil {
		return err
	}
	_, parts, _, err := statement.ExecutePartitions(ctx)
	if err != nil {
		return err
	}
	if err := print("partitions", parts.NumPartitions); err != nil {
		return err
	}
	for _, part := range parts.PartitionIDs {
		rows, err := connection.ReadPartition(ctx, part)
		if err := show("partition", rows, err); err != nil {
			return err
		}
	}
	return nil
}

func refuse(ctx context.Context, connection adbc.Connection) error {
	for _, text := range []string{"SELECT nam FROM spans", "DROP TABLE spans"} {
		statement, err := connection.NewStatement()
		if err != nil {
			return err
		}
		if err := statement.SetSqlQuery(text); err != nil {
			return err
		}
		_, _, err = statement.ExecuteQuery(ctx)
		if err == nil {
			return fmt.Errorf("%s is not refused", text)
		}
		if err := print(text, err.Error()); err != nil {
			return err
		}
		statement.Close()
	}
	return nil
}

func authenticate(ctx context.Context, driver adbc.Driver, uri string) error {
	database, err := driver.NewDatabase(map[string]string{
		adbc.OptionKeyURI: uri, adbc.OptionKeyUsername: "ana", adbc.OptionKeyPassword: "secret",
		"adbc.flight.sql.rpc.call_header.x-tracehouse-types": "flat",
	})
	if err != nil {
		return err
	}
	defer database.Close()
	connection, err := database.Open(ctx)
	if err != nil {
		return err
	}
	defer connection.Close()
	statement, err := connection.NewStatement()
	if err != nil {
		return err
	}
	defer statement.Close()
	if err := statement.SetSqlQuery("SELECT * FROM spans ORDER BY span_id"); err != nil {
		return err
	}
	rows, _, err := statement.ExecuteQuery(ctx)
	if err != nil {
		return err
	}
	// What a data source plug-in for Grafana knows.
	for _, field := range rows.Schema().Fields() {
		switch kind := field.Type.(type) {
		case *arrow.StringType, *arrow.Int64Type, *arrow.Int32Type, *arrow.Float64Type, *arrow.BooleanType:
		case *arrow.TimestampType:
			if kind.Unit != arrow.Nanosecond {
				return fmt.Errorf("%s is in %s", field.Name, kind.Unit)
			}
		default:
			return fmt.Errorf("%s is %s", field.Name, field.Type)
		}
	}
	return show("flat", rows, nil)
}

func show(name string, rows array.RecordReader, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	defer rows.Release()
	all := []json.RawMessage{}
	for rows.Next() {
		// Doubles and times would lose digits on their way through float64; raw JSON keeps them.
		text, err := array.RecordToStructArray(rows.Record()).MarshalJSON()
		if err != nil {
			return err
		}
		var part []json.RawMessage
		if err := json.NewDecoder(strings.NewReader(string(text))).Decode(&part); err != nil {
			return err
		}
		all = append(all, part...)
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return print(name, all)
}

func print(name string, value any) error {
	return json.NewEncoder(os.Stdout).Encode(map[string]any{"name": name, "value": value})
}

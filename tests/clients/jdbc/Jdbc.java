import java.sql.Connection;
import java.sql.DatabaseMetaData;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.ResultSetMetaData;
import java.sql.SQLException;
import java.sql.Statement;
import java.sql.Timestamp;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** Does what tools with a JDBC driver do, and prints each answer as a line of JSON: a name and a value. */
public final class Jdbc {
    public static void main(String[] arguments) throws Exception {
        String url = arguments[0];
        String service = arguments[1];
        long start = Long.parseLong(arguments[2]);
        try (Connection connection = DriverManager.getConnection(url)) {
            describe(connection.getMetaData());
            print("catalog", connection.getCatalog());
            query(connection, service);
            prepared(connection, service, start);
            refusals(connection);
        }
        print("valid with a name and a password", connects(url + "&user=ana&password=secret"));
        print("valid with a token", connects(url + "&token=abc"));
        print("valid with the catalog", connectsWithSession(url + "&catalog=tracehouse"));
        try (Connection flat = DriverManager.getConnection(url + "&x-tracehouse-types=flat")) {
            print("flat", rows(flat.createStatement().executeQuery("SELECT * FROM spans ORDER BY span_id")));
        }
    }

    private static boolean connects(String url) throws SQLException {
        try (Connection connection = DriverManager.getConnection(url);
                ResultSet one = connection.createStatement().executeQuery("SELECT 1")) {
            return one.next() && one.getInt(1) == 1;
        }
    }

    /** With a catalog there is a session, which this version of the driver closes after its own channel. */
    private static boolean connectsWithSession(String url) throws SQLException {
        Connection connection = DriverManager.getConnection(url);
        boolean works;
        try (ResultSet one = connection.createStatement().executeQuery("SELECT 1")) {
            works = one.next() && one.getInt(1) == 1;
        }
        try {
            connection.close();
        } catch (SQLException closed) {
            works &= String.valueOf(closed.getCause()).contains("Channel shutdown invoked");
        }
        return works;
    }

    private static void describe(DatabaseMetaData about) throws SQLException {
        print("product", about.getDatabaseProductName());
        print("read only", about.isReadOnly());
        print("quote", about.getIdentifierQuoteString());
        print("transactions", about.supportsTransactions());
        print("isolation", about.getDefaultTransactionIsolation());
        print("outer joins", about.supportsFullOuterJoins());
        print("unions", about.supportsUnionAll());
        print("correlated", about.supportsCorrelatedSubqueries());
        print("batch updates", about.supportsBatchUpdates());
        print("forward only", about.supportsResultSetType(ResultSet.TYPE_FORWARD_ONLY));
        print("statement length", about.getMaxStatementLength());
        print("keywords", about.getSQLKeywords());
        print("functions", List.of(about.getNumericFunctions(), about.getStringFunctions(),
                about.getSystemFunctions(), about.getTimeDateFunctions()));
        print("catalogs", rows(about.getCatalogs()));
        print("schemas", rows(about.getSchemas()));
        print("schemas like", rows(about.getSchemas("tracehouse", "pub%")));
        print("table types", rows(about.getTableTypes()));
        print("tables", rows(about.getTables(null, null, "span%", new String[] {"TABLE"})));
        print("views", rows(about.getTables(null, "public", "spans", new String[] {"VIEW"})));
        print("columns", rows(about.getColumns(null, null, "spans", "%")));
        print("column", rows(about.getColumns(null, null, "spans", "duration%")));
        print("primary keys", rows(about.getPrimaryKeys(null, null, "spans")));
        print("imported keys", rows(about.getImportedKeys(null, null, "spans")));
        print("exported keys", rows(about.getExportedKeys(null, null, "spans")));
        print("cross reference", rows(about.getCrossReference(null, null, "spans", null, null, "traces")));
    }

    private static void query(Connection connection, String service) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            print("spans", rows(statement.executeQuery(
                    "SELECT * FROM spans WHERE service_name = '" + service + "' ORDER BY span_id")));
        }
        try (Statement statement = connection.createStatement()) {
            statement.setMaxRows(2);
            print("two", rows(statement.executeQuery("SELECT span_id FROM spans ORDER BY span_id")).size());
        }
        try (Statement statement = connection.createStatement();
                ResultSet endless = statement.executeQuery("SELECT value FROM generate_series(1, 3000000)")) {
            endless.next();
            statement.cancel();
        }
    }

    private static void prepared(Connection connection, String service, long start) throws SQLException {
        String text = "SELECT span_id FROM spans WHERE service_name = ? AND duration_nano >= ? AND start_time >= ?"
                + " ORDER BY span_id";
        try (PreparedStatement statement = connection.prepareStatement(text)) {
            print("parameters", statement.getParameterMetaData().getParameterCount());
            statement.setString(1, service);
            statement.setLong(2, 0);
            Timestamp timestamp = new Timestamp(start / 1_000_000);
            timestamp.setNanos((int) (start % 1_000_000_000));
            statement.setTimestamp(3, timestamp);
            print("bound", rows(statement.executeQuery()));
            statement.setLong(2, Long.MAX_VALUE);
            print("bound again", rows(statement.executeQuery()));
        }
    }

    private static void refusals(Connection connection) {
        for (String text : List.of("SELECT nam FROM spans", "DROP TABLE spans", "DELETE FROM spans")) {
            try (Statement statement = connection.createStatement()) {
                statement.execute(text);
                print(text, null);
            } catch (SQLException refused) {
                print(text, refused.getMessage());
            }
        }
    }

    private static List<Map<String, Object>> rows(ResultSet answer) throws SQLException {
        List<Map<String, Object>> rows = new ArrayList<>();
        ResultSetMetaData columns = answer.getMetaData();
        while (answer.next()) {
            Map<String, Object> row = new LinkedHashMap<>();
            for (int column = 1; column <= columns.getColumnCount(); column++) {
                // The driver has no object for a timestamp with a zone.
                boolean zoned = columns.getColumnType(column) == java.sql.Types.TIMESTAMP_WITH_TIMEZONE;
                Object value = zoned ? answer.getTimestamp(column) : answer.getObject(column);
                if (value instanceof Timestamp timestamp) {
                    // Without a calendar the driver gives the instant, to the nanosecond.
                    value = timestamp.getTime() / 1000 * 1_000_000_000L + timestamp.getNanos();
                }
                if (value instanceof java.sql.Array array) {
                    // Good only while the answer is at its row.
                    value = Arrays.asList((Object[]) array.getArray());
                }
                row.put(columns.getColumnName(column), value);
            }
            rows.add(row);
        }
        answer.close();
        return rows;
    }

    private static void print(String name, Object value) {
        System.out.println("{" + json("name") + ":" + json(name) + "," + json("value") + ":" + json(value) + "}");
    }

    private static String json(Object value) {
        if (value == null) {
            return "null";
        }
        if (value instanceof Map<?, ?> map) {
            List<String> entries = new ArrayList<>();
            map.forEach((key, item) -> entries.add(json(String.valueOf(key)) + ":" + json(item)));
            return "{" + String.join(",", entries) + "}";
        }
        if (value instanceof List<?> list) {
            List<String> items = new ArrayList<>();
            list.forEach(item -> items.add(json(item)));
            return "[" + String.join(",", items) + "]";
        }
        if (value instanceof Number || value instanceof Boolean) {
            return value.toString();
        }
        StringBuilder text = new StringBuilder("\"");
        for (char letter : value.toString().toCharArray()) {
            if (letter == '"' || letter == '\\') {
                text.append('\\').append(letter);
            } else if (letter < ' ') {
                text.append(String.format("\\u%04x", (int) letter));
            } else {
                text.append(letter);
            }
        }
        return text.append('"').toString();
    }
}

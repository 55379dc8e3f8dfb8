//! Reading of events and links only what a scan asks of them.
//!
//! Both are lists of structs with a map of typed values, so ten columns of a file each, all of which the reader would decode
//! for whatever is asked of one. Which of them a question needs, the calls of `item_parts` and `item_has` in it say
//! ([`ItemsAsked`]); of a value, the file's list of attributes says which types it has there. The others are taken out of the
//! footer before the reader sees it, so that the file has a narrower list:
//!
//! ```text
//!  stored  events: list<struct<time_unix_nano, name, attributes: map<key, struct<str, int, float, bool, json>>, dropped ..>>
//!  has k   events: list<struct<attributes: list<key>>>
//!  value   events: list<struct<attributes: map<key, struct<str>>>>             all values of k in the file are text
//! ```
//!
//! An expression that takes a list as it is gets it as it is.

use std::{collections::BTreeSet, fmt::Write as _, sync::Arc};

use arrow::datatypes::{DataType, FieldRef, Fields, Schema, SchemaRef};
use datafusion::{
    common::{
        Result as DfResult,
        tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion},
    },
    object_store::path::Path,
    physical_expr::{
        PhysicalExpr, ScalarFunctionExpr,
        expressions::{Column, Literal},
    },
};
use parquet::{
    arrow::parquet_to_arrow_schema,
    errors::Result,
    file::metadata::{ParquetMetaData, RowGroupMetaData, SortingColumn},
    schema::types::{SchemaDescPtr, SchemaDescriptor, Type},
};

use crate::{
    functions::{ItemHas, ItemPart, ItemParts},
    model::{
        attributes::{AttributeScope, AttributeType, VALUE_JSON, value_fields},
        keys::{AttributeKeys, TypeSet},
        schema::{column, logical_schema},
    },
    storage::{
        footer,
        scan::{changed_footer, sparse_items::ItemsOfRow},
    },
};

/// The metadata of the field of a list that was narrowed: the name of its footer among those that are kept.
const NAME_METADATA: &str = "tracehouse.changed";

/// The lists, and whose attributes they hold.
pub(crate) const LISTS: [(&str, AttributeScope); 2] =
    [(column::EVENTS, AttributeScope::Event), (column::LINKS, AttributeScope::Link)];

/// What a scan asks of one of the lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Asked {
    /// It is not read.
    #[default]
    Nothing,
    /// Some of it.
    Parts(BTreeSet<ItemPart>),
    /// All of it.
    Whole,
}

impl Asked {
    fn add(&mut self, parts: impl IntoIterator<Item = ItemPart>) {
        match self {
            Self::Nothing => *self = Self::Parts(parts.into_iter().collect()),
            Self::Parts(known) => known.extend(parts),
            Self::Whole => {}
        }
    }
}

/// What a scan asks of events and of links.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ItemsAsked([Asked; LISTS.len()]);

impl ItemsAsked {
    /// What expressions over the columns of the table ask.
    pub(crate) fn of<'a>(exprs: impl IntoIterator<Item = &'a Arc<dyn PhysicalExpr>>) -> Self {
        let mut asked = Self::default();
        exprs.into_iter().for_each(|expr| asked.add(expr));
        asked
    }

    fn add(&mut self, expr: &Arc<dyn PhysicalExpr>) {
        let parts = ItemParts::called(expr.as_ref()).or_else(|| has(expr));
        if let Some((list, parts)) = parts
            && let Some(index) = list_of(list)
        {
            return self.0[index].add(parts);
        }
        if let Some(index) = list_of(expr) {
            self.0[index] = Asked::Whole;
        }
        expr.children().into_iter().for_each(|child| self.add(child));
    }

    /// The lists of which parts are asked for.
    pub(crate) fn in_parts(&self) -> impl Iterator<Item = &'static str> {
        let lists = LISTS.iter().zip(&self.0).filter(|(_, asked)| matches!(asked, Asked::Parts(_)));
        lists.map(|((list, _), _)| *list)
    }

    /// The same expression with the number of the row beside each call that takes a part of one of these lists.
    pub(crate) fn by_row(
        &self,
        expr: &Arc<dyn PhysicalExpr>,
        row: &Arc<dyn PhysicalExpr>,
    ) -> DfResult<Arc<dyn PhysicalExpr>> {
        let expr = Arc::clone(expr).transform_down(|node| {
            let parts = ItemParts::called(node.as_ref()).or_else(|| has(&node));
            let list = parts.and_then(|(list, _)| list_of(list));
            if !list.is_some_and(|list| matches!(self.0[list], Asked::Parts(_))) {
                return Ok(Transformed::no(node));
            }
            let of_row: Arc<dyn PhysicalExpr> = Arc::new(ItemsOfRow { call: node, row: Arc::clone(row) });
            Ok(Transformed::new(of_row, true, TreeNodeRecursion::Jump))
        });
        expr.data()
    }

    /// The columns of a file that need not be read.
    pub(crate) fn left_out(&self, metadata: &ParquetMetaData) -> LeftOut {
        let mut left_out = LeftOut::default();
        let mut keys = None;
        for ((list, scope), asked) in LISTS.into_iter().zip(&self.0) {
            let Asked::Parts(parts) = asked else { continue };
            let keys: &Option<AttributeKeys> = keys.get_or_insert_with(|| footer::keys_of(metadata));
            let types = |key: &str| keys.as_ref().map_or(TypeSet::ALL, |keys| keys.residual(scope, key));
            let needed = Needed::new(parts, types);
            left_out.lists.push(list);
            let leaves = metadata.file_metadata().schema_descr().columns().iter().enumerate();
            for (index, leaf) in leaves.filter(|(_, leaf)| leaf.path().parts().first().is_some_and(|root| root == list))
            {
                match needed.needs(leaf.path().parts()) {
                    Some(true) => {}
                    Some(false) => left_out.leaves.push(index),
                    // A file of another layout is read as it is.
                    None => return LeftOut::default(),
                }
            }
        }
        left_out
    }
}

/// The list and the part that `item_has(list, 'key')` reads.
fn has(expr: &Arc<dyn PhysicalExpr>) -> Option<(&Arc<dyn PhysicalExpr>, Vec<ItemPart>)> {
    let call = ScalarFunctionExpr::try_downcast_func::<ItemHas>(expr.as_ref())?;
    let [list, key] = call.args() else { return None };
    let key = key.downcast_ref::<Literal>()?.value().try_as_str().flatten()?;
    Some((list, vec![ItemPart::Has(key.to_owned())]))
}

fn list_of(expr: &Arc<dyn PhysicalExpr>) -> Option<usize> {
    let column = expr.downcast_ref::<Column>()?;
    LISTS.iter().position(|(list, _)| *list == column.name())
}

/// What is needed of one list of a file.
struct Needed<'a> {
    fields: Vec<&'a str>,
    keys: bool,
    values: TypeSet,
}

impl<'a> Needed<'a> {
    fn new(parts: &'a BTreeSet<ItemPart>, types: impl Fn(&str) -> TypeSet) -> Self {
        let mut needed = Self { fields: Vec::new(), keys: false, values: TypeSet::default() };
        for part in parts {
            match part {
                ItemPart::Field(name) => needed.fields.push(name),
                ItemPart::Has(_) => needed.keys = true,
                ItemPart::Value(key) => {
                    needed.keys = true;
                    needed.values = needed.values.union(types(key));
                }
            }
        }
        // How many items there are has to be read somewhere.
        needed.keys |= needed.fields.is_empty();
        needed
    }

    /// Whether a column of the list is needed; `None` if it is none that a list has.
    fn needs(&self, path: &[String]) -> Option<bool> {
        let below: Vec<&str> = path.iter().skip(1).map(String::as_str).collect();
        match below.as_slice() {
            ["list", "element", "attributes", "key_value", "key"] => Some(self.keys),
            ["list", "element", "attributes", "key_value", "value", value] => {
                let of_type = AttributeType::ALL.into_iter().find(|value_type| value_type.value_field() == *value);
                match of_type {
                    Some(value_type) => Some(self.values.contains(value_type)),
                    None if value_fields()[VALUE_JSON].name() == value => Some(self.values.intersects(TypeSet::NESTED)),
                    None => None,
                }
            }
            ["list", "element", field] => Some(self.fields.contains(field)),
            _ => None,
        }
    }
}

/// Columns that are taken out of a footer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LeftOut {
    /// By their positions, in order.
    leaves: Vec<usize>,
    /// The lists of which parts are asked for.
    lists: Vec<&'static str>,
}

impl LeftOut {
    pub(crate) fn is_empty(&self) -> bool {
        self.leaves.is_empty()
    }

    /// A name for footers without these columns.
    pub(crate) fn name(&self) -> String {
        self.leaves.iter().fold("without".to_owned(), |mut name, leaf| {
            // Writing to text does not fail.
            let _ = write!(name, "-{leaf}");
            name
        })
    }

    fn has(&self, leaf: usize) -> bool {
        self.leaves.binary_search(&leaf).is_ok()
    }

    /// What is left of something that there is of each column.
    fn rest<T: Clone>(&self, columns: &[T]) -> Vec<T> {
        columns.iter().enumerate().filter(|(leaf, _)| !self.has(*leaf)).map(|(_, column)| column.clone()).collect()
    }

    /// The footer without these columns, to be kept under this name. One that has lists of another type than the table keeps
    /// them all.
    pub(crate) fn narrowed(&self, metadata: &ParquetMetaData, name: &Path) -> Result<ParquetMetaData> {
        let footer = metadata.file_metadata();
        let schema = parquet_to_arrow_schema(footer.schema_descr(), footer.key_value_metadata())?;
        let table = logical_schema();
        let is_ours = LISTS.iter().all(|(list, _)| match (schema.field_with_name(list), table.field_with_name(list)) {
            (Ok(stored), Ok(known)) => stored.data_type() == known.data_type(),
            _ => false,
        });
        let stored = footer.schema_descr().root_schema();
        let (Some(fields), Some(parquet), true) =
            (self.of_fields(schema.fields(), &mut 0), self.of_parquet(stored, &mut 0)?, is_ours)
        else {
            return Ok(metadata.clone());
        };
        let noted = |field: &FieldRef| match self.lists.iter().any(|list| list == field.name()) {
            true => {
                let noted = [(NAME_METADATA.to_owned(), name.to_string())];
                Arc::new(field.as_ref().clone().with_metadata(noted.into()))
            }
            false => Arc::clone(field),
        };
        let fields: Fields = fields.iter().map(noted).collect();
        let columns = SchemaDescPtr::new(SchemaDescriptor::new(Arc::new(parquet)));
        let groups = metadata.row_groups().iter().map(|group| self.of_group(group, &columns));
        let orders = footer.column_orders().map(|orders| self.rest(orders));
        Ok(changed_footer::begun(footer, &Schema::new(fields), Arc::clone(&columns), orders)
            .set_row_groups(groups.collect::<Result<_>>()?)
            .set_column_index(
                metadata.column_index().map(|groups| groups.iter().map(|group| self.rest(group)).collect()),
            )
            .set_offset_index(
                metadata.offset_index().map(|groups| groups.iter().map(|group| self.rest(group)).collect()),
            )
            .build())
    }

    fn of_group(&self, group: &RowGroupMetaData, columns: &SchemaDescPtr) -> Result<RowGroupMetaData> {
        let moved = |sorted: &SortingColumn| {
            let leaf = usize::try_from(sorted.column_idx).ok().filter(|leaf| !self.has(*leaf))?;
            let before = self.leaves.iter().filter(|left_out| **left_out < leaf).count();
            Some(SortingColumn { column_idx: i32::try_from(leaf - before).ok()?, ..*sorted })
        };
        // An order is one as far as its columns are there.
        let sorting = group.sorting_columns().map(|sorted| sorted.iter().map_while(moved).collect());
        let mut narrowed = RowGroupMetaData::builder(Arc::clone(columns))
            .set_num_rows(group.num_rows())
            .set_total_byte_size(group.total_byte_size())
            .set_sorting_columns(sorting)
            .set_column_metadata(self.rest(group.columns()));
        if let Some(offset) = group.file_offset() {
            narrowed = narrowed.set_file_offset(offset);
        }
        if let Some(ordinal) = group.ordinal() {
            narrowed = narrowed.set_ordinal(ordinal);
        }
        narrowed.build()
    }

    /// What is left of a type of Parquet.
    fn of_parquet(&self, stored: &Type, leaf: &mut usize) -> Result<Option<Type>> {
        if stored.is_primitive() {
            *leaf += 1;
            return Ok((!self.has(*leaf - 1)).then(|| stored.clone()));
        }
        let mut fields = Vec::new();
        for field in stored.get_fields() {
            fields.extend(self.of_parquet(field, leaf)?.map(Arc::new));
        }
        if fields.is_empty() {
            return Ok(None);
        }
        let info = stored.get_basic_info();
        let mut group = Type::group_type_builder(info.name())
            .with_converted_type(info.converted_type())
            .with_logical_type(info.logical_type_ref().cloned())
            .with_fields(fields);
        if info.has_repetition() {
            group = group.with_repetition(info.repetition());
        }
        if info.has_id() {
            group = group.with_id(Some(info.id()));
        }
        group.build().map(Some)
    }

    fn of_fields(&self, fields: &Fields, leaf: &mut usize) -> Option<Fields> {
        let kept: Vec<FieldRef> = fields.iter().filter_map(|field| self.of_field(field, leaf)).collect();
        (!kept.is_empty()).then(|| kept.into())
    }

    fn of_field(&self, field: &FieldRef, leaf: &mut usize) -> Option<FieldRef> {
        let data_type = match field.data_type() {
            DataType::Struct(fields) => DataType::Struct(self.of_fields(fields, leaf)?),
            DataType::List(element) => DataType::List(self.of_field(element, leaf)?),
            DataType::Map(entry, is_sorted) => {
                let entry = self.of_field(entry, leaf)?;
                match entry.data_type() {
                    // Keys without values are a list to the reader.
                    DataType::Struct(fields) if fields.len() == 1 => DataType::List(Arc::clone(&fields[0])),
                    _ => DataType::Map(entry, *is_sorted),
                }
            }
            other => {
                *leaf += 1;
                return (!self.has(*leaf - 1)).then(|| Arc::new(field.as_ref().clone().with_data_type(other.clone())));
            }
        };
        Some(Arc::new(field.as_ref().clone().with_data_type(data_type)))
    }
}

/// Where the items of a list are kept for a file with this schema.
pub(crate) fn kept_name(file: &Schema, list: &str) -> Option<Path> {
    let name = file.field_with_name(list).ok()?.metadata().get(NAME_METADATA)?;
    Some(name_of_items(&Path::parse(name).ok()?, list))
}

/// The same, for footers with this name.
pub(crate) fn name_of_items(footer: &Path, list: &str) -> Path {
    footer.clone().join(list)
}

/// The columns of the table as a file has them of which lists were narrowed: these have the file's type.
pub(crate) fn narrowed_table(table: SchemaRef, file: &Schema) -> SchemaRef {
    let narrowed = |field: &FieldRef| {
        let stored = file.field_with_name(field.name()).ok()?;
        stored.metadata().contains_key(NAME_METADATA).then(|| stored.data_type().clone())
    };
    if !table.fields().iter().any(|field| narrowed(field).is_some()) {
        return table;
    }
    let field = |field: &FieldRef| match narrowed(field) {
        Some(data_type) => Arc::new(field.as_ref().clone().with_data_type(data_type)),
        None => Arc::clone(field),
    };
    let fields: Fields = table.fields().iter().map(field).collect();
    Arc::new(Schema::new_with_metadata(fields, table.metadata().clone()))
}

//! The different values of one key of the attribute maps of a file, out of the columns that the maps are made of.
//!
//! ```text
//!  span_attributes      -> key_value.key        | coupon  model  coupon | ..
//!    {coupon: a, model: m}, {coupon: b}         |   :              :    |
//!                          key_value.value.str  |   a       m      b    | ..
//! ```
//!
//! The leaves of a map have an entry each for every entry of it, and one for every map that is empty or not there. So they
//! are walked side by side, without a map being put together; a row group whose dictionary of keys does not have the key
//! is not read beyond that.

use std::{collections::HashSet, hash::Hash, ops::Range, sync::Arc};

use bytes::Bytes;
use datafusion::{
    common::Result,
    execution::{object_store::ObjectStoreUrl, runtime_env::RuntimeEnv},
    object_store::ObjectStore,
};
use parquet::{
    column::reader::{ColumnReaderImpl, get_column_reader, get_typed_column_reader},
    data_type::{BoolType, ByteArrayType, DataType, DoubleType, Int64Type},
    errors::ParquetError,
    file::{
        metadata::{ParquetMetaData, RowGroupMetaData},
        serialized_reader::SerializedPageReader,
    },
};

use crate::{
    model::{
        attributes::{AttributeScope, AttributeType, VALUE_JSON, value_fields},
        keys::TypeSet,
        schema::column,
    },
    storage::{
        chunks::{Chunk, place_of},
        dictionary::{StoredValue, StoredValues, dictionary_of, dictionary_range},
        dictionary_page::CodedValue,
        footer::read_metadata,
        scan::ScanFile,
    },
};

/// Largest column chunk that is read, in bytes of the file.
const CHUNK_BYTES_MAX: u64 = 16 << 20;

/// Rows whose levels are held at once.
const ROWS_AT_ONCE: usize = 8_192;

/// The values of `key` in the maps of `scope`, each row group's once, if they are of these types; read by way of `objects`,
/// or of the runtime's store. `None` if the columns are not to be read so.
///
/// # Errors
/// The file cannot be read.
pub async fn map_values(
    runtime: &RuntimeEnv,
    store: &ObjectStoreUrl,
    objects: Option<&Arc<dyn ObjectStore>>,
    file: &ScanFile,
    (scope, key): (AttributeScope, &str),
    types: TypeSet,
) -> Result<Option<StoredValues>> {
    let objects = match objects {
        Some(objects) => Arc::clone(objects),
        None => runtime.object_store(store)?,
    };
    let metadata = read_metadata(runtime, store, file).await?;
    let mut found = StoredValues::default();
    let Some(key_leaf) = leaf(&metadata, scope, &["key"]) else { return Ok(None) };
    for group in metadata.row_groups() {
        if let Some(range) = dictionary_range(group.column(key_leaf)) {
            let bytes = read(&objects, file, range, &mut found).await?;
            let keys = dictionary_of(group.column(key_leaf), bytes)?;
            let is_key =
                |known: Result<CodedValue<'_>, ParquetError>| known.is_ok_and(|known| known == CodedValue::Text(key));
            if keys.is_some_and(|keys| !keys.iter().any(is_key)) {
                continue;
            }
        }
        let Some(keys) = whole(&objects, file, group, key_leaf, &mut found).await? else { return Ok(None) };
        if types.intersects(TypeSet::NESTED) {
            let Some(leaf) = leaf(&metadata, scope, &["value", value_fields()[VALUE_JSON].name()]) else {
                return Ok(None);
            };
            let Some(values) = whole(&objects, file, group, leaf, &mut found).await? else { return Ok(None) };
            let pair = Pair { metadata: &metadata, group, keys: (key_leaf, &keys), values: (leaf, &values) };
            found.values.extend(pair.texts(key)?.into_iter().map(StoredValue::Nested));
        }
        for value_type in AttributeType::ALL.into_iter().filter(|value_type| types.contains(*value_type)) {
            let Some(leaf) = leaf(&metadata, scope, &["value", value_type.value_field()]) else { return Ok(None) };
            let Some(values) = whole(&objects, file, group, leaf, &mut found).await? else { return Ok(None) };
            let pair = Pair { metadata: &metadata, group, keys: (key_leaf, &keys), values: (leaf, &values) };
            let values: Vec<StoredValue> = match value_type {
                AttributeType::Str => pair.texts(key)?.into_iter().map(StoredValue::Text).collect(),
                AttributeType::Int => {
                    pair.find::<Int64Type, _>(key, |int| *int)?.into_iter().map(StoredValue::Int).collect()
                }
                AttributeType::Float => {
                    let bits = pair.find::<DoubleType, _>(key, |float| float.to_bits())?;
                    bits.into_iter().map(|bits| StoredValue::Float(f64::from_bits(bits))).collect()
                }
                AttributeType::Bool => {
                    pair.find::<BoolType, _>(key, |truth| *truth)?.into_iter().map(StoredValue::Bool).collect()
                }
            };
            found.values.extend(values);
        }
    }
    Ok(Some(found))
}

/// The leaf column at the end of this path below the maps of a scope.
fn leaf(metadata: &ParquetMetaData, scope: AttributeScope, below: &[&str]) -> Option<usize> {
    let above: &[&str] = match scope {
        AttributeScope::Resource => &[column::RESOURCE_ATTRIBUTES],
        AttributeScope::Scope => &[column::SCOPE_ATTRIBUTES],
        AttributeScope::Span => &[column::SPAN_ATTRIBUTES],
        AttributeScope::Event => &[column::EVENTS, "list", "element", "attributes"],
        AttributeScope::Link => &[column::LINKS, "list", "element", "attributes"],
    };
    let path: Vec<&str> = above.iter().chain(&["key_value"]).chain(below).copied().collect();
    let columns = metadata.file_metadata().schema_descr().columns();
    columns.iter().position(|descriptor| descriptor.path().parts() == path)
}

async fn read(
    objects: &Arc<dyn ObjectStore>,
    file: &ScanFile,
    range: Range<u64>,
    found: &mut StoredValues,
) -> Result<Chunk> {
    let chunk = Chunk::fetch(objects, &file.path, range).await?;
    found.read_bytes += chunk.bytes.len() as u64;
    Ok(chunk)
}

/// All of a column chunk; `None` if it is too large.
async fn whole(
    objects: &Arc<dyn ObjectStore>,
    file: &ScanFile,
    group: &RowGroupMetaData,
    leaf: usize,
    found: &mut StoredValues,
) -> Result<Option<Chunk>> {
    let place = place_of(group.column(leaf));
    if place.end - place.start > CHUNK_BYTES_MAX {
        return Ok(None);
    }
    read(objects, file, place, found).await.map(Some)
}

/// The keys of the maps of a row group, and their values of one type.
struct Pair<'a> {
    metadata: &'a ParquetMetaData,
    group: &'a RowGroupMetaData,
    keys: (usize, &'a Chunk),
    values: (usize, &'a Chunk),
}

impl Pair<'_> {
    fn texts(&self, key: &str) -> Result<Vec<String>> {
        let texts = self.find::<ByteArrayType, Bytes>(key, |text| text.data().to_vec().into())?;
        let text = |bytes: Bytes| {
            let text = String::from_utf8(bytes.into());
            text.map_err(|_| ParquetError::General("a text is not UTF-8".to_owned()).into())
        };
        texts.into_iter().map(text).collect()
    }

    /// The different values of the key.
    fn find<T: DataType, V: Eq + Hash>(
        &self,
        key: &str,
        value_of: impl Fn(&T::T) -> V,
    ) -> Result<HashSet<V>, ParquetError> {
        let mut keys = Leaf::<ByteArrayType>::new(self, self.keys)?;
        let mut values = Leaf::<T>::new(self, self.values)?;
        let mut found = HashSet::new();
        while keys.advance()? {
            if !values.advance()? || values.levels.len() != keys.levels.len() {
                return Err(ParquetError::General("the columns of a map differ in length".to_owned()));
            }
            let mut next_value = values.values.iter();
            let mut next_key = keys.values.iter();
            for (key_level, value_level) in keys.levels.iter().zip(&values.levels) {
                let is_asked =
                    *key_level == keys.level_max && next_key.next().is_some_and(|next| next.data() == key.as_bytes());
                if *value_level == values.level_max
                    && let Some(value) = next_value.next()
                    && is_asked
                {
                    found.insert(value_of(value));
                }
            }
        }
        Ok(found)
    }
}

/// A column, some rows at a time.
struct Leaf<T: DataType> {
    reader: ColumnReaderImpl<T>,
    /// The definition level of an entry that has a value.
    level_max: i16,
    levels: Vec<i16>,
    repetitions: Vec<i16>,
    values: Vec<T::T>,
}

impl<T: DataType> Leaf<T> {
    fn new(pair: &Pair<'_>, (leaf, chunk): (usize, &Chunk)) -> Result<Self, ParquetError> {
        let descriptor = pair.metadata.file_metadata().schema_descr().column(leaf);
        let rows = usize::try_from(pair.group.num_rows())?;
        let pages = SerializedPageReader::new(Arc::new(chunk.clone()), pair.group.column(leaf), rows, None)?;
        if descriptor.physical_type() != T::get_physical_type() {
            return Err(ParquetError::General(format!("{} has another type", descriptor.path())));
        }
        let level_max = descriptor.max_def_level();
        let reader = get_typed_column_reader(get_column_reader(descriptor, Box::new(pages)));
        Ok(Self { reader, level_max, levels: Vec::new(), repetitions: Vec::new(), values: Vec::new() })
    }

    /// Moves on to the next rows; `false` if there are none.
    fn advance(&mut self) -> Result<bool, ParquetError> {
        self.levels.clear();
        self.repetitions.clear();
        self.values.clear();
        let (levels, repetitions) = (Some(&mut self.levels), Some(&mut self.repetitions));
        Ok(self.reader.read_records(ROWS_AT_ONCE, levels, repetitions, &mut self.values)?.0 > 0)
    }
}

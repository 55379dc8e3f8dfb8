//! Rewriting expressions on logical attributes to what one file or one buffered batch has.
//!
//! A query is planned on the logical columns, in which a map column holds every attribute of its scope. What is stored
//! differs from batch to batch: some attributes have a column, the rest is in the residual map. The rewriting, with `m` a
//! map column, `c` the promoted column of `k` where the batch has one:
//!
//! | in the query | in the batch |
//! |---|---|
//! | `attr_int(m, 'k')`, likewise the other exact types | `c` if it has that type, else the same on the residual |
//! | `attr_number(m, 'k')`, `attr_text(m, 'k')` | `c`, cast, where the residual cannot hold `k`; else `c` before the residual |
//! | `attr_exists(m, 'k')` | `c IS NOT NULL`, or in the residual |
//! | any of them, if the batch cannot hold `k` in such a type | NULL of its type, false for `attr_exists` |
//! | `attr_nested(m, 'k')` | the same on the residual |
//! | `attr_json(m, 'k')` | the same on the residual with `c` put back |
//! | `attr_rest(m, 'k', 'str', ...)` | as `m` itself, without the promoted columns that are listed |
//! | `m` itself | `attr_assemble(m, 'k', c, ...)` with every promoted column of the scope |
//!
//! What the residual can hold, a buffered batch says ([`SpanBatch::keys`](crate::model::batch::SpanBatch::keys)), and a
//! file in its footer. Without such a list, in a file that another program rewrote, it can hold everything.
//! `attr_rest` of a scope of which nothing is left in the map is NULL. What a query reads apart is [`crate::storage::apart`]'s.
//! `item_has(events, 'k')` is false if the list says that no event has the key; likewise for links. Of events and links a file
//! can have been left less than the table has ([`crate::storage::scan::items`]); what reads them then takes what is there.
//!
//! Text comparisons of a promoted int are then made comparisons of ints, so that `m['k'] = '200'` prunes. Where a file's text
//! is read as codes of a dictionary, it is cast to text, but for keys of groups, comparisons with a text or a pattern, and tests
//! for NULL; in what is shown, and not in predicates, whose form says how to prune, conditions on one such text are evaluated
//! for its values ([`OnValues`]).
//! Everything else (columns that a file lacks, casts) is left to DataFusion's own adapter.

use std::{any::Any, sync::Arc};

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::{
    common::{
        Result, ScalarValue,
        config::ConfigOptions,
        exec_err,
        tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion},
    },
    execution::cache::cache_manager::FileMetadataCache,
    logical_expr::{Operator, ScalarUDF},
    object_store::path::Path,
    physical_expr::{
        PhysicalExpr, ScalarFunctionExpr,
        expressions::{BinaryExpr, CaseExpr, CastExpr, Column, IsNotNullExpr, IsNullExpr, Literal, TryCastExpr, lit},
        simplifier::PhysicalExprSimplifier,
    },
};
use datafusion_physical_expr_adapter::{DefaultPhysicalExprAdapter, PhysicalExprAdapter, PhysicalExprAdapterFactory};

use crate::{
    functions::{AttrAssemble, AttrFunction, AttrGet, AttrRest, CodedText, ItemHas, TextKey, TextMeets},
    model::{
        attributes::{self, AttributeScope, AttributeType},
        keys::{AttributeKeys, TypeSet},
        promotion::{PromotedAttribute, attribute_of_column, promoted_attribute},
        schema::column,
    },
    storage::{
        apart::{Apart, Mark, NoValue},
        footer,
        scan::{
            changed_footer::file_of_schema,
            coded_text::value_type,
            condition::fold,
            demand::ScanDemand,
            items::{kept_name, narrowed_table},
            marked::{Marked, Use},
            nulls::Nulls,
            on_values::OnValues,
            remainder,
            sparse_items::{ItemsOfRow, KeptList, SparseItems},
        },
    },
};

/// Makes the rewriting for each file and each buffered batch.
#[derive(Clone, Debug, Default)]
pub struct AttributeAdapterFactory {
    pub(crate) demand: Option<Arc<ScanDemand>>,
    /// Where the items of lists are kept, if some are.
    pub(crate) kept: Option<Arc<FileMetadataCache>>,
}

impl PhysicalExprAdapterFactory for AttributeAdapterFactory {
    fn create(&self, logical: SchemaRef, physical: SchemaRef) -> Result<Arc<dyn PhysicalExprAdapter>> {
        let keys = footer::keys_of_schema(&physical).map(Arc::new);
        let demand = self.demand.as_ref().map(Arc::clone);
        let kept = self.kept.as_ref().map(Arc::clone);
        let adapter = AttributeAdapter::try_new(logical, physical, keys)?.with_demand(demand);
        Ok(Arc::new(AttributeAdapter { kept, ..adapter }))
    }
}

/// The rewriting for one physical schema.
#[derive(Debug)]
pub struct AttributeAdapter {
    physical: SchemaRef,
    promoted: Vec<PromotedAttribute>,
    keys: Option<Arc<AttributeKeys>>,
    demand: Option<Arc<ScanDemand>>,
    kept: Option<Arc<FileMetadataCache>>,
    rest: DefaultPhysicalExprAdapter,
}

impl AttributeAdapter {
    /// The rewriting from one schema to the other, for rows with these attributes.
    pub fn try_new(logical: SchemaRef, physical: SchemaRef, keys: Option<Arc<AttributeKeys>>) -> Result<Self> {
        let mut promoted = Vec::new();
        for field in physical.fields() {
            if attribute_of_column(field.name()).is_none() {
                continue;
            }
            // The codes of text are text.
            let plain = field.as_ref().clone().with_data_type(value_type(field.data_type()).clone());
            match promoted_attribute(&plain) {
                Some(attribute) => promoted.push(attribute),
                None => return exec_err!("attribute column {} has the type {}", field.name(), field.data_type()),
            }
        }
        let rest = DefaultPhysicalExprAdapter::new(narrowed_table(logical, &physical), Arc::clone(&physical));
        Ok(Self { physical, promoted, keys, demand: None, kept: None, rest })
    }

    /// The same, telling which attributes were read.
    pub(crate) fn with_demand(self, demand: Option<Arc<ScanDemand>>) -> Self {
        Self { demand, ..self }
    }

    fn column(&self, name: &str) -> Result<Arc<dyn PhysicalExpr>> {
        let index = self.physical.index_of(name)?;
        let column = Arc::new(Column::new(name, index));
        Ok(match self.physical.field(index).data_type() {
            DataType::Dictionary(_, values) => Arc::new(CastExpr::new(column, values.as_ref().clone(), None)),
            _ => column,
        })
    }

    /// Undoes that codes are made text where codes will do.
    fn leave_codes(&self, expr: Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>> {
        let codes = |expr: &Arc<dyn PhysicalExpr>| {
            let cast = expr.downcast_ref::<CastExpr>()?;
            let column = cast.expr().downcast_ref::<Column>()?;
            let data_type = self.physical.field(column.index()).data_type();
            let is_text = matches!(data_type, DataType::Dictionary(_, values) if values.as_ref() == cast.cast_type());
            is_text.then(|| Arc::clone(cast.expr()))
        };
        expr.transform_up(|node| {
            let compares = |binary: &BinaryExpr| {
                matches!(binary.op(), Operator::Eq | Operator::NotEq)
                    && (binary.left().is::<Literal>() || binary.right().is::<Literal>())
            };
            let leaves_codes = ScalarFunctionExpr::try_downcast_func::<TextKey>(node.as_ref()).is_some()
                || ScalarFunctionExpr::try_downcast_func::<CodedText>(node.as_ref()).is_some()
                || ScalarFunctionExpr::try_downcast_func::<TextMeets>(node.as_ref()).is_some()
                || node.downcast_ref::<BinaryExpr>().is_some_and(compares)
                || node.is::<IsNotNullExpr>()
                || node.is::<IsNullExpr>();
            let children = node.children();
            if !leaves_codes || !children.iter().any(|child| codes(child).is_some()) {
                return Ok(Transformed::no(node));
            }
            let children =
                children.into_iter().map(|child| codes(child).unwrap_or_else(|| Arc::clone(child))).collect();
            Ok(Transformed::yes(node.with_new_children(children)?))
        })
        .data()
    }

    fn promoted(&self, scope: AttributeScope, key: &str) -> Option<&PromotedAttribute> {
        self.promoted.iter().find(|attribute| attribute.scope == scope && &*attribute.key == key)
    }

    /// The types that the residual map, or the maps of events or links, can hold under a key.
    fn residual(&self, scope: AttributeScope, key: &str) -> TypeSet {
        self.keys.as_ref().map_or(TypeSet::ALL, |keys| keys.residual(scope, key))
    }

    fn attributes(&self, expr: Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>> {
        let rewritten = |expr| Ok(Transformed::new(expr, true, TreeNodeRecursion::Jump));
        expr.transform_down(|node| {
            if let Some((get, scope, key)) = get_of_column(&node) {
                return rewritten(self.get(get, scope, &key, &node)?);
            }
            if let Some((scope, key)) = item_has_of_column(&node) {
                return match self.residual(scope, &key).is_empty() {
                    true => rewritten(lit(false)),
                    false => Ok(Transformed::no(node)),
                };
            }
            if let Some((mark, call)) = Apart::of(node.as_ref()) {
                return rewritten(self.apart(mark, call)?);
            }
            if let Some(of_row) = node.downcast_ref::<ItemsOfRow>() {
                return rewritten(self.items_of_row(of_row)?);
            }
            if let Some((scope, listed)) = rest_of_column(&node) {
                let is_listed = |attribute: &PromotedAttribute| {
                    let value_type = AttrRest::type_name(attribute.value_type);
                    listed.iter().any(|(key, listed_type)| **key == *attribute.key && listed_type == value_type)
                };
                let of_scope = self.promoted.iter().filter(|attribute| attribute.scope == scope);
                let promoted: Vec<_> = of_scope.filter(|attribute| !is_listed(attribute)).collect();
                if promoted.is_empty() && self.keys.as_ref().is_some_and(|keys| keys.residual_is_empty(scope)) {
                    return rewritten(lit(ScalarValue::try_from(&attributes::map_type())?));
                }
                return rewritten(self.assemble(scope, &promoted)?);
            }
            let column = node.downcast_ref::<Column>();
            if let Some(scope) = column.and_then(|column| AttributeScope::of_map_column(column.name())) {
                let promoted: Vec<_> = self.promoted.iter().filter(|attribute| attribute.scope == scope).collect();
                return rewritten(self.assemble(scope, &promoted)?);
            }
            Ok(Transformed::no(node))
        })
        .data()
    }

    /// A call on a list that is kept takes it from there, any other one the column.
    fn items_of_row(&self, of_row: &ItemsOfRow) -> Result<Arc<dyn PhysicalExpr>> {
        let call = self.attributes(Arc::clone(&of_row.call))?;
        let Some((list, rest)) = call.children().split_first().map(|(list, rest)| (*list, rest.to_vec())) else {
            return Ok(call);
        };
        let kept = || {
            let name = kept_name(&self.physical, list.downcast_ref::<Column>()?.name())?;
            let entry = self.kept.as_ref()?.get(&name)?;
            let items: Arc<dyn Any + Send + Sync> = entry.file_metadata;
            items.downcast::<SparseItems>().ok()
        };
        let Some(items) = kept().filter(|items| matches!(items.as_ref(), SparseItems::Few(..))) else {
            return Ok(call);
        };
        let list: Arc<dyn PhysicalExpr> = Arc::new(KeptList { items, row: Arc::clone(&of_row.row) });
        let args = std::iter::once(list).chain(rest.into_iter().map(Arc::clone)).collect();
        call.with_new_children(args)
    }

    /// A column that is read apart is left out; what is not, is read.
    fn apart(&self, mark: &Apart, call: &ScalarFunctionExpr) -> Result<Arc<dyn PhysicalExpr>> {
        let file = file_of_schema(&self.physical);
        let number = match mark.mark {
            Mark::File => {
                let number = file.and_then(|file| mark.columns.number(&file));
                return Ok(lit(ScalarValue::Int32(number)));
            }
            Mark::Column(number) => number,
        };
        let [value] = call.args() else { return exec_err!("{} takes one value", call.name()) };
        let value = self.attributes(Arc::clone(value))?;
        let shown = call.return_type();
        let is_apart = |file: &Path| {
            let Some(column) = stored_column(&value) else { return false };
            mark.columns.set_apart(file, number, column, value_type(shown))
        };
        Ok(match file.is_some_and(|file| is_apart(&file)) {
            true => NoValue::of(shown.clone()),
            false => value,
        })
    }

    fn get(
        &self,
        get: AttrFunction,
        scope: AttributeScope,
        key: &str,
        call: &Arc<dyn PhysicalExpr>,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        if let Some(demand) = &self.demand {
            demand.note(scope, key);
        }
        let promoted = self.promoted(scope, key);
        let on_map = |map: Arc<dyn PhysicalExpr>| {
            let key = lit(ScalarValue::from(key));
            Arc::clone(call).with_new_children(vec![map, key])
        };
        if let (AttrFunction::Json, Some(attribute)) = (get, promoted) {
            return on_map(self.assemble(scope, &[attribute])?);
        }
        let read = types_read(get);
        let in_column = promoted.filter(|attribute| read.intersects(TypeSet::of(attribute.value_type)));
        let in_column = in_column.map(|attribute| self.get_promoted(get, attribute)).transpose()?;
        let in_residual = match self.residual(scope, key).intersects(read) {
            true => Some(on_map(self.column(map_column(scope)?)?)?),
            false => None,
        };
        match (in_column, in_residual) {
            (Some(one), None) | (None, Some(one)) => Ok(one),
            (None, None) if get == AttrFunction::Exists => Ok(lit(false)),
            (None, None) => Ok(lit(ScalarValue::try_from(&get.return_type())?)),
            (Some(column), Some(residual)) if get == AttrFunction::Exists => {
                Ok(Arc::new(BinaryExpr::new(column, Operator::Or, residual)))
            }
            (Some(column), Some(residual)) => {
                let there: Arc<dyn PhysicalExpr> = Arc::new(IsNotNullExpr::new(Arc::clone(&column)));
                Ok(Arc::new(CaseExpr::try_new(None, vec![(there, column)], Some(residual))?))
            }
        }
    }

    /// What `get` gives for the values of a promoted column.
    fn get_promoted(&self, get: AttrFunction, attribute: &PromotedAttribute) -> Result<Arc<dyn PhysicalExpr>> {
        let column = self.column(&attribute.column)?;
        if get == AttrFunction::Exists {
            return Ok(Arc::new(IsNotNullExpr::new(column)));
        }
        if get.return_type() == attribute.value_type.data_type() {
            return Ok(column);
        }
        Ok(Arc::new(CastExpr::new(column, get.return_type(), None)))
    }

    fn assemble(&self, scope: AttributeScope, promoted: &[&PromotedAttribute]) -> Result<Arc<dyn PhysicalExpr>> {
        let residual = self.column(map_column(scope)?)?;
        if promoted.is_empty() {
            return Ok(residual);
        }
        let mut args = vec![residual];
        for attribute in promoted {
            args.push(lit(ScalarValue::from(&*attribute.key)));
            args.push(self.column(&attribute.column)?);
        }
        let function = Arc::new(ScalarUDF::from(AttrAssemble::default()));
        let call = ScalarFunctionExpr::try_new(function, args, &self.physical, Arc::new(ConfigOptions::default()))?;
        Ok(Arc::new(call))
    }

    /// An expression over what is stored.
    fn stored(&self, expr: Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>> {
        self.leave_codes(self.rest.rewrite(self.unwrap_text(self.attributes(expr)?)?)?)
    }

    /// Undoes the text of ints that are compared or cast back.
    fn unwrap_text(&self, expr: Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>> {
        expr.transform_up(|node| {
            if let Some(binary) = node.downcast_ref::<BinaryExpr>()
                && matches!(binary.op(), Operator::Eq | Operator::NotEq)
            {
                let (column, literal) = match self.int_as_text(binary.left()) {
                    Some(column) => (Some(column), binary.right()),
                    None => (self.int_as_text(binary.right()), binary.left()),
                };
                if let (Some(column), Some(number)) = (column, int_of_text(literal)) {
                    return Ok(Transformed::yes(Arc::new(BinaryExpr::new(column, *binary.op(), number)) as _));
                }
            }
            let cast = node.downcast_ref::<CastExpr>().map(|cast| (cast.expr(), cast.cast_type()));
            let cast = cast.or_else(|| node.downcast_ref::<TryCastExpr>().map(|cast| (cast.expr(), cast.cast_type())));
            match cast.and_then(|(inner, to)| Some((self.int_as_text(inner)?, to))) {
                Some((column, DataType::Int64)) => Ok(Transformed::yes(column)),
                _ => Ok(Transformed::no(node)),
            }
        })
        .data()
    }

    /// The int column of `CAST(column AS text)`.
    fn int_as_text(&self, expr: &Arc<dyn PhysicalExpr>) -> Option<Arc<dyn PhysicalExpr>> {
        let cast = expr.downcast_ref::<CastExpr>()?;
        let column = cast.expr().downcast_ref::<Column>()?;
        let is_int = self.physical.field(column.index()).data_type() == &DataType::Int64;
        (is_int && cast.cast_type() == &DataType::Utf8).then(|| Arc::clone(cast.expr()))
    }
}

impl PhysicalExprAdapter for AttributeAdapter {
    fn rewrite(&self, expr: Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>> {
        let simplify = |expr| PhysicalExprSimplifier::new(&self.physical).simplify(expr);
        if let Some(marked) = expr.downcast_ref::<Marked>() {
            let rewritten = self.rewrite(Arc::clone(marked.expr()))?;
            return match marked.is_for() {
                Use::Condition => Ok(fold(&simplify(rewritten)?)),
                Use::Shown => OnValues::rewrite(rewritten, &self.physical).map(Nulls::shared),
                Use::Remainder { chooses_rows } => {
                    let conditions = simplify(rewritten)?;
                    let left = if chooses_rows { remainder::of_file(&conditions, &self.physical) } else { conditions };
                    OnValues::rewrite(left, &self.physical)
                }
            };
        }
        if let Some(binary) = expr.downcast_ref::<BinaryExpr>()
            && *binary.op() == Operator::And
        {
            let (left, right) = (self.rewrite(Arc::clone(binary.left()))?, self.rewrite(Arc::clone(binary.right()))?);
            return Ok(Arc::new(BinaryExpr::new(left, Operator::And, right)));
        }
        self.stored(expr)
    }
}

/// The column whose values an expression gives, as text or as codes of it.
fn stored_column(expr: &Arc<dyn PhysicalExpr>) -> Option<&str> {
    if let Some(coded) = ScalarFunctionExpr::try_downcast_func::<CodedText>(expr.as_ref()) {
        return stored_column(coded.args().first()?);
    }
    let column = match expr.downcast_ref::<CastExpr>() {
        Some(cast) if *cast.cast_type() == DataType::Utf8 => cast.expr(),
        Some(_) => return None,
        None => expr,
    };
    Some(column.downcast_ref::<Column>()?.name())
}

/// `attr_*(column, 'key')` on a map column.
fn get_of_column(expr: &Arc<dyn PhysicalExpr>) -> Option<(AttrFunction, AttributeScope, String)> {
    let call = ScalarFunctionExpr::try_downcast_func::<AttrGet>(expr.as_ref())?;
    let get = call.fun().inner().downcast_ref::<AttrGet>()?.function();
    let [map, key] = call.args() else { return None };
    let scope = AttributeScope::of_map_column(map.downcast_ref::<Column>()?.name())?;
    let key = key.downcast_ref::<Literal>()?.value().try_as_str().flatten()?;
    Some((get, scope, key.to_owned()))
}

/// `item_has(events, 'key')` or the same of links.
fn item_has_of_column(expr: &Arc<dyn PhysicalExpr>) -> Option<(AttributeScope, String)> {
    let call = ScalarFunctionExpr::try_downcast_func::<ItemHas>(expr.as_ref())?;
    let [list, key] = call.args() else { return None };
    let scope = match list.downcast_ref::<Column>()?.name() {
        column::EVENTS => AttributeScope::Event,
        column::LINKS => AttributeScope::Link,
        _ => return None,
    };
    let key = key.downcast_ref::<Literal>()?.value().try_as_str().flatten()?;
    Some((scope, key.to_owned()))
}

/// Keys and types of `attr_rest(column, 'key', 'type', ...)`.
fn rest_of_column(expr: &Arc<dyn PhysicalExpr>) -> Option<(AttributeScope, Vec<(String, String)>)> {
    let call = ScalarFunctionExpr::try_downcast_func::<AttrRest>(expr.as_ref())?;
    let (map, listed) = call.args().split_first()?;
    let scope = AttributeScope::of_map_column(map.downcast_ref::<Column>()?.name())?;
    let text =
        |expr: &Arc<dyn PhysicalExpr>| Some(expr.downcast_ref::<Literal>()?.value().try_as_str().flatten()?.to_owned());
    let listed = listed.chunks_exact(2).map(|pair| Some((text(&pair[0])?, text(&pair[1])?)));
    Some((scope, listed.collect::<Option<_>>()?))
}

fn map_column(scope: AttributeScope) -> Result<&'static str> {
    match scope.map_column() {
        Some(name) => Ok(name),
        None => exec_err!("attributes of {scope} have no column"),
    }
}

/// The types of value for which a function's answer is not that of an absent key.
fn types_read(get: AttrFunction) -> TypeSet {
    match get {
        AttrFunction::Str => TypeSet::of(AttributeType::Str),
        AttrFunction::Int => TypeSet::of(AttributeType::Int),
        AttrFunction::Float => TypeSet::of(AttributeType::Float),
        AttrFunction::Bool => TypeSet::of(AttributeType::Bool),
        AttrFunction::Number => TypeSet::of(AttributeType::Int).union(TypeSet::of(AttributeType::Float)),
        AttrFunction::Text => TypeSet::VALUES,
        AttrFunction::Nested => TypeSet::NESTED,
        AttrFunction::Json | AttrFunction::Exists => TypeSet::ALL,
    }
}

/// The int that is written like this text literal, if there is one.
fn int_of_text(expr: &Arc<dyn PhysicalExpr>) -> Option<Arc<dyn PhysicalExpr>> {
    let text = expr.downcast_ref::<Literal>()?.value().try_as_str().flatten()?;
    let number: i64 = text.parse().ok()?;
    (number.to_string() == text).then(|| lit(number))
}

//! The gateway's description in OpenAPI 3.0, made of the descriptors and the routes: it cannot tell of what is not there.

use std::sync::LazyLock;

use prost_reflect::{Cardinality, EnumDescriptor, FieldDescriptor, Kind as FieldKind, MessageDescriptor};
use quorate_member::SERVER_VERSION;
use serde_json::{Map, Value, json};

use super::routes;
use crate::descriptors;
use crate::method::{Kind, Method};

/// The whole document.
pub static DOCUMENT: LazyLock<String> = LazyLock::new(|| document().to_string());

/// The name of an error in the document.
const ERROR: &str = "Error";

fn document() -> Value {
    let mut schemas = Map::new();
    schemas.insert(
        ERROR.to_owned(),
        json!({
            "type": "object",
            "description": "A gRPC status.",
            "properties": {"code": {"type": "integer"}, "message": {"type": "string"}},
        }),
    );
    let paths: Map<String, Value> =
        routes::ALL.iter().map(|(path, method)| ((*path).to_owned(), operation(path, *method, &mut schemas))).collect();
    json!({
        "openapi": "3.0.3",
        "info": {
            "title": "etcd's API, version 3, as JSON",
            "version": SERVER_VERSION,
            "description": "Bytes are base64; numbers of 64 bits are text.",
            "license": {"name": "Apache-2.0"},
        },
        "paths": paths,
        "components": {"schemas": schemas},
    })
}

fn operation(path: &str, method: Method, schemas: &mut Map<String, Value>) -> Value {
    let types = descriptors::of(method).expect("the gateway's methods are described");
    let service = method.service().rsplit('.').next().unwrap_or_default();
    // Some methods have two paths.
    let is_alias = routes::ALL.iter().find(|(_, known)| *known == method).is_some_and(|(first, _)| *first != path);
    let id = format!("{service}_{}{}", method.name(), if is_alias { "_2" } else { "" });
    let (request, response) = (reference(&types.input(), schemas), reference(&types.output(), schemas));
    let error = json!({"$ref": format!("#/components/schemas/{ERROR}")});
    let (told, schema) = match method.kind() {
        Kind::Unary => ("The answer.", response),
        _ => (
            "A line of JSON for each answer.",
            json!({"type": "object", "properties": {"result": response, "error": error}}),
        ),
    };
    let content = |schema: Value| json!({"application/json": {"schema": schema}});
    json!({"post": {
        "operationId": id,
        "tags": [service],
        "requestBody": {"required": true, "content": content(request)},
        "responses": {
            "200": {"description": told, "content": content(schema)},
            "default": {"description": "An error.", "content": content(error)},
        },
    }})
}

/// Where `message` is described, and its description if there is none yet.
fn reference(message: &MessageDescriptor, schemas: &mut Map<String, Value>) -> Value {
    let name = message.full_name();
    if !schemas.contains_key(name) {
        // A message may hold itself.
        schemas.insert(name.to_owned(), Value::Null);
        let properties: Map<String, Value> =
            message.fields().map(|field| (field.name().to_owned(), property(&field, schemas))).collect();
        schemas.insert(name.to_owned(), json!({"type": "object", "properties": properties}));
    }
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn property(field: &FieldDescriptor, schemas: &mut Map<String, Value>) -> Value {
    if field.is_map() {
        let kind = field.kind();
        let value = kind.as_message().expect("a map is a message").map_entry_value_field();
        return json!({"type": "object", "additionalProperties": single(&value.kind(), schemas)});
    }
    match field.cardinality() {
        Cardinality::Repeated => json!({"type": "array", "items": single(&field.kind(), schemas)}),
        Cardinality::Optional | Cardinality::Required => single(&field.kind(), schemas),
    }
}

fn single(kind: &FieldKind, schemas: &mut Map<String, Value>) -> Value {
    match kind {
        FieldKind::Message(message) => reference(message, schemas),
        FieldKind::Enum(names) => json!({"type": "string", "enum": values(names)}),
        FieldKind::Bool => json!({"type": "boolean"}),
        FieldKind::String => json!({"type": "string"}),
        FieldKind::Bytes => json!({"type": "string", "format": "byte"}),
        FieldKind::Double | FieldKind::Float => json!({"type": "number"}),
        FieldKind::Int64 | FieldKind::Sint64 | FieldKind::Sfixed64 => json!({"type": "string", "format": "int64"}),
        FieldKind::Uint64 | FieldKind::Fixed64 => json!({"type": "string", "format": "uint64"}),
        FieldKind::Int32 | FieldKind::Sint32 | FieldKind::Sfixed32 => json!({"type": "integer", "format": "int32"}),
        FieldKind::Uint32 | FieldKind::Fixed32 => json!({"type": "integer", "format": "int64"}),
    }
}

fn values(names: &EnumDescriptor) -> Vec<String> {
    names.values().map(|value| value.name().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Every `$ref` in it.
    fn references<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
        match value {
            Value::Object(members) => members.iter().for_each(|(name, value)| match value {
                Value::String(target) if name == "$ref" => {
                    found.insert(target);
                }
                value => references(value, found),
            }),
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }

    #[test]
    fn all_that_is_named_is_described() {
        let document: Value = serde_json::from_str(&DOCUMENT).unwrap();
        assert_eq!(document["paths"].as_object().unwrap().len(), routes::ALL.len());
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        assert!(found.contains("#/components/schemas/mvccpb.KeyValue"), "{found:?}");
        for target in found {
            assert!(document.pointer(&target[1..]).is_some_and(Value::is_object), "{target}");
        }
        let put = &document["components"]["schemas"]["etcdserverpb.PutRequest"]["properties"];
        assert_eq!(put["lease"], json!({"type": "string", "format": "int64"}));
        let ids: BTreeSet<&str> = document["paths"]
            .as_object()
            .unwrap()
            .values()
            .filter_map(|path| path["post"]["operationId"].as_str())
            .collect();
        assert_eq!(ids.len(), routes::ALL.len(), "each operation has a name of its own");
    }
}

//! `GET /openapi.json`: the API's description, made from its handlers and the types that they take and give.

use std::borrow::Cow;
use std::collections::BTreeMap;

use utoipa::openapi::path::{
    Operation, OperationBuilder, Parameter, ParameterBuilder, ParameterIn, PathItemBuilder,
};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{KnownFormat, Object, ObjectBuilder, Schema, SchemaFormat, Type};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{
    Content, Header, HttpMethod, OpenApi, RefOr, Required, Response, ResponseBuilder, ResponsesBuilder,
};
use utoipa::{IntoParams, IntoResponses, PartialSchema, ToSchema};

use super::Problem;
use crate::auth::TokenName;
use crate::function::{EntryPoint, FunctionName};
use crate::oci::{Digest, Repository};
use crate::secrets::SecretName;

/// What the handlers do not say of themselves.
#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "fnbuild",
        description = "Functions: built, kept in versions, and run. Calls go to `/function/NAME`, with any method, path and body.",
        license(name = "Apache-2.0")
    ),
    components(schemas(Problem)),
    security((), ("token" = []), ("basic" = []))
)]
struct Whole;

/// The description that the handlers' are merged into.
pub fn whole() -> OpenApi {
    let mut whole = <Whole as utoipa::OpenApi>::openapi();
    let components = whole.components.get_or_insert_default();
    let scheme = |scheme| SecurityScheme::Http(Http::new(scheme));
    components.add_security_scheme("token", scheme(HttpAuthScheme::Bearer));
    components.add_security_scheme("basic", scheme(HttpAuthScheme::Basic));
    let later = METHODS.into_iter().fold(PathItemBuilder::new(), |item, (method, name)| {
        let has_body = !matches!(method, HttpMethod::Get | HttpMethod::Delete);
        item.operation(method, call_later(name, has_body))
    });
    whole.paths.paths.insert("/async-function/{name}".into(), later.build());
    whole
}

/// Functions are called with any; these are what a description can name.
const METHODS: [(HttpMethod, &str); 5] = [
    (HttpMethod::Get, "call_later_get"),
    (HttpMethod::Put, "call_later_put"),
    (HttpMethod::Post, "call_later"),
    (HttpMethod::Delete, "call_later_delete"),
    (HttpMethod::Patch, "call_later_patch"),
];

/// The queue takes calls in without a handler that could describe itself.
fn call_later(operation_id: &str, has_body: bool) -> Operation {
    let text = || Object::with_type(Type::String);
    let name = ParameterBuilder::new()
        .name("name")
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .description(Some("`NAME` or `NAME@VERSION`; what follows after a slash is the function's"))
        .schema(Some(text()));
    let callback = ParameterBuilder::new()
        .name("X-Callback-Url")
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some("where the answer is sent"))
        .schema(Some(text()));
    let bytes = ObjectBuilder::new()
        .schema_type(Type::String)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::Binary)));
    let body = RequestBodyBuilder::new()
        .content("application/json", Content::new(Some(Object::new())))
        .content("application/octet-stream", Content::new(Some(bytes)))
        .build();
    let taken = ResponseBuilder::new()
        .description("the call is kept, and made as soon as may be")
        .header("X-Call-Id", Header::new(text()))
        .build();
    OperationBuilder::new()
        .operation_id(Some(operation_id))
        .summary(Some("Keeps a call, to be made later."))
        .parameters(Some([name, callback]))
        .request_body(has_body.then_some(body))
        .responses(ResponsesBuilder::new().response("202", taken).responses_from_into_responses::<Later>())
        .build()
}

/// Adds what any management path may answer before its handler is asked, and gives the text.
pub fn finish(mut api: OpenApi) -> String {
    for item in api.paths.paths.values_mut() {
        let operations = [&mut item.get, &mut item.put, &mut item.post, &mut item.delete];
        for operation in operations.into_iter().flatten() {
            let responses = &mut operation.responses.responses;
            for (status, response) in Doors::responses() {
                responses.entry(status).or_insert(response);
            }
            for (status, response) in responses {
                if let RefOr::T(response) = response
                    && response.description.is_empty()
                {
                    let status = status.parse::<http::StatusCode>().ok();
                    response.description =
                        status.and_then(|s| s.canonical_reason()).unwrap_or_default().into();
                }
            }
        }
    }
    // Plain data: it can be written. What an alias stands for lends its name to the schema, and that says nothing.
    let text = api.to_json().unwrap_or_default();
    text.replace("schemas/u64\"", "schemas/VersionNumber\"").replace("\"u64\":", "\"VersionNumber\":")
}

fn refusal(description: &str) -> RefOr<Response> {
    let content = Content::new(Some(utoipa::openapi::Ref::from_schema_name(Problem::name())));
    ResponseBuilder::new().description(description).content("application/json", content).build().into()
}

/// A set of refusals, each with its status, that handlers name among their answers.
macro_rules! refusals {
    ($($(#[$about:meta])* $name:ident: $($status:literal $description:literal),+;)+) => {$(
        $(#[$about])*
        pub struct $name;

        impl IntoResponses for $name {
            fn responses() -> BTreeMap<String, RefOr<Response>> {
                [$(($status.to_string(), refusal($description))),+].into()
            }
        }
    )+};
}

refusals! {
    /// Before a handler is asked.
    Doors:
        401 "a token is needed, or the one given is not valid",
        403 "the request comes from, or is meant for, another site, or its token does not allow this",
        429 "too many attempts with wrong tokens: `Retry-After` says when to try again";

    /// Of what only reads the store.
    Reads:
        400 "the path or the query cannot be read",
        503 "the store is away";

    /// Of what reads one function.
    ReadsOne:
        400 "the path or the query cannot be read",
        404 "there is no such function",
        503 "the store or the registry is away";

    /// Of what changes a function, fetches an image for it and starts it.
    Changes:
        400 "the path, the query or the body cannot be read, or does not make sense",
        404 "there is no such function or version",
        409 "others changed the function at the same time, or there is nothing before",
        413 "the body is too large",
        422 "an image or a secret that is named is not there",
        500 "the server cannot do its work",
        503 "the store, the registry or containerd is away";

    /// Of calls that are kept.
    Later:
        400 "the body broke off, or the answer cannot be sent where X-Callback-Url says",
        401 "the function takes a token",
        403 "the token does not allow calls",
        404 "there is no such function or version",
        413 "the body is too large",
        429 "as many calls as may wait do, or too many attempts with wrong tokens: see `Retry-After`",
        431 "the headers are too large",
        503 "the store is away, the queue is full, or this node makes no calls of the function";

    /// Of tokens.
    KeepsTokens:
        400 "the path or the body cannot be read",
        404 "there is no such token",
        409 "there is such a token already",
        413 "the body is too large",
        500 "the server cannot do its work",
        503 "the store is away";

    /// Of secrets.
    Keeps:
        400 "the body cannot be read",
        404 "there is no such secret",
        409 "there is such a secret already",
        413 "the value is too large",
        500 "the server cannot do its work",
        503 "the store is away, or another key has sealed the secrets";
}

/// Types that are text of a certain form.
macro_rules! texts {
    ($($kind:ident: $pattern:expr;)+) => {$(
        impl PartialSchema for $kind {
            fn schema() -> RefOr<Schema> {
                let pattern: Option<&str> = $pattern;
                ObjectBuilder::new().schema_type(Type::String).pattern(pattern).into()
            }
        }

        impl ToSchema for $kind {
            fn name() -> Cow<'static, str> {
                stringify!($kind).into()
            }
        }
    )+};
}

texts! {
    FunctionName: Some("^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$");
    SecretName: Some("^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$");
    Digest: Some("^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$");
    Repository: Some("^[a-z0-9]+((\\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\\.|_|__|-+)[a-z0-9]+)*)*$");
    EntryPoint: None;
    TokenName: Some("^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$");
}

/// What `{name}` in a path may be.
macro_rules! names {
    ($($kind:ident),+) => {$(
        impl IntoParams for $kind {
            fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
                let parameter = ParameterBuilder::new().name("name").parameter_in(ParameterIn::Path);
                vec![parameter.required(Required::True).schema(Some(Self::schema())).build()]
            }
        }
    )+};
}

names!(FunctionName, TokenName);

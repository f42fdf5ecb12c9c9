//! Owns the config blob of the CNCF Wasm OCI artifact (TAG Runtime, "Wasm OCI Artifact layout", config v0).

use serde::{Deserialize, Serialize};

use crate::oci::Digest;

/// `application/vnd.wasm.config.v0+json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WasmConfig {
    /// When it was made, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// Always `wasm`.
    pub architecture: String,
    /// `wasip1` for modules, `wasip2` for components.
    pub os: String,
    /// The layers' digests, in the manifest's order.
    #[serde(default)]
    pub layer_digests: Vec<String>,
    /// What a component imports and exports; absent for modules.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub component: Option<ComponentConfig>,
}

/// The `component` part of [`WasmConfig`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComponentConfig {
    /// Exported names.
    #[serde(default)]
    pub exports: Vec<String>,
    /// Imported names: enough to decide whether this node can run it before the layer is pulled.
    #[serde(default)]
    pub imports: Vec<String>,
    /// The world it targets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

impl WasmConfig {
    /// The config of one Wasm layer. There is no `created`: the same file pushed twice has the same digest.
    #[must_use]
    pub fn for_layer(layer: &Digest, component: Option<ComponentConfig>) -> Self {
        Self {
            created: None,
            author: None,
            architecture: "wasm".to_owned(),
            os: if component.is_some() { "wasip2" } else { "wasip1" }.to_owned(),
            layer_digests: vec![layer.to_string()],
            component,
        }
    }
}

use crate::domain::*;
use std::{fmt, net::*, path::*, time::Duration};
pub struct Config {
    pub server: ServerConfig,
    pub endpoints: Vec<Endpoint>,
}
pub struct Secret(String);
impl Secret {
    pub fn expose(&self) -> &str {
        &self.0
    }
}
pub struct ApiKey {
    pub name: String,
    pub key: Secret,
}
pub struct LocalMarketConfig {
    pub slots: u32,
    pub keep_on_exit: bool,
}
pub struct ServerConfig {
    pub listen: SocketAddr,
    pub admin_listen: SocketAddr,
    pub insecure: bool,
    pub api_keys: Vec<ApiKey>,
    pub admin_token: Option<Secret>,
    pub state_dir: PathBuf,
    pub threads: usize,
    pub max_body_bytes: usize,
    pub body_timeout: Duration,
    pub grace_period: Duration,
    pub scaler_interval: Duration,
    pub local_market: LocalMarketConfig,
    pub log: String,
}
#[derive(Debug)]
pub struct Mistakes(Vec<String>);
impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}
pub fn load(_: &Path, _: &dyn Fn(&str) -> Option<String>) -> Result<Config, Mistakes> {
    todo!()
}
pub fn load_embedded(_: &dyn Fn(&str) -> Option<String>) -> Result<Config, Mistakes> {
    todo!()
}

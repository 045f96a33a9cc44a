//! The nouns of Tidegate: plain data without I/O, clock, chance or async.
#![deny(clippy::disallowed_methods)]

mod choice;
mod client;
mod connection;
mod endpoint;
mod forecast;
mod ids;
mod iteration;
mod money;
mod offers;
mod outlook;
mod passage;
mod plan;
mod preview;
mod rental;
mod request;
mod resume;
mod routing;
mod snapshot;
mod time;
mod units;
mod vast;
mod worker;

pub use choice::{Candidate, Choice, GapLaw, KvRoom, NoWorker, WaitReason};
pub use client::{Access, ApiKey, KeyLimits, KeyScope, NeedsKey, Secret};
pub use connection::ConnectionLimits;
pub use endpoint::{
    Endpoint, EngineKind, FixedWorker, HedgeSettings, LatenessAim, LocalLaunch, MarketKind,
    RequestLimits, RetrySettings, ScalingSettings, Source, SpeedPrior, TimeLimits, WaitingSettings,
    WorkerGroup,
};
pub use forecast::LoadForecast;
pub use ids::{
    AccountId, ClientKey, EndpointName, GroupName, HostId, InstallationId, InstanceId, MachineId,
    OfferId, WorkerId,
};
pub use iteration::{CapacityView, IterationLaw, IterationLoad};
pub use money::{
    AgreementView, Day, EndpointMoney, EndpointSpending, Enforce, LimitView, MoneyView, NoDay,
    SpendKind, SpendUse, SpendingLimits, SpendingRule, SpendingScope, SpendingSettings,
};
pub use offers::{
    Alternative, BenchmarkResult, BenchmarkSettings, ChoiceRule, Interruptible, OfferChoice,
    OfferSettings, WhyNot,
};
pub use outlook::{LENGTH_BINS, Outlook, length_bin, length_bin_start};
pub use passage::{PassCost, PassRoute, PassageSettings, PathPattern};
pub use plan::{PlannedAction, Reason, Release, ScalingAction, ScalingPlan};
pub use preview::{ExcludingFilter, Exclusion, GroupOffers, PlanPreview};
pub use rental::{
    Account, Charge, Hardware, Instance, InstanceState, MachineKey, Offer, Rental, RentalLabel,
    RentalState,
};
pub use request::{Api, PredictedCost, PredictionRow, PredictionView, RequestShape};
pub use resume::{Obstacle, ResumeMode, ResumeSettings};
pub use routing::{
    AffinitySettings, Contention, EjectionSettings, LatencyAim, Preference, Prefix, PrefixBlock,
    RoutingSettings,
};
pub use snapshot::{DemandView, FleetSnapshot, WaitingView, WorkerView};
pub use time::{Timestamp, optional_seconds, seconds};
pub use units::{Tokens, TokensPerSecond, Usd, UsdPerHour};
pub use vast::{
    LaunchOptions, NoPreamble, OfferSearch, PREAMBLE_BYTES_MAX, RunType, SCRIPT_BYTES_MAX,
    SearchOperator, SearchValue, VastLaunch, VolumeMount,
};
pub use worker::{FailureReason, RequestOutcome, WorkerEvent, WorkerPhase};

//! ERROR-CODE values (RFC 8489 §14.8, RFC 8656 §19).

/// An error response's code; the reason phrase is for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ErrorCode {
    /// 400
    BadRequest,
    /// 401
    Unauthenticated,
    /// 403
    Forbidden,
    /// 420
    UnknownAttribute,
    /// 437
    AllocationMismatch,
    /// 438
    StaleNonce,
    /// 440
    AddressFamilyNotSupported,
    /// 441
    WrongCredentials,
    /// 442
    UnsupportedTransportProtocol,
    /// 443
    PeerAddressFamilyMismatch,
    /// 486
    AllocationQuotaReached,
    /// 500
    ServerError,
    /// 508
    InsufficientCapacity,
}

impl ErrorCode {
    /// Every code, for tables and metrics.
    pub const ALL: [Self; 13] = [
        Self::BadRequest,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::UnknownAttribute,
        Self::AllocationMismatch,
        Self::StaleNonce,
        Self::AddressFamilyNotSupported,
        Self::WrongCredentials,
        Self::UnsupportedTransportProtocol,
        Self::PeerAddressFamilyMismatch,
        Self::AllocationQuotaReached,
        Self::ServerError,
        Self::InsufficientCapacity,
    ];

    /// The number, 300..=699.
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Unauthenticated => 401,
            Self::Forbidden => 403,
            Self::UnknownAttribute => 420,
            Self::AllocationMismatch => 437,
            Self::StaleNonce => 438,
            Self::AddressFamilyNotSupported => 440,
            Self::WrongCredentials => 441,
            Self::UnsupportedTransportProtocol => 442,
            Self::PeerAddressFamilyMismatch => 443,
            Self::AllocationQuotaReached => 486,
            Self::ServerError => 500,
            Self::InsufficientCapacity => 508,
        }
    }

    /// The reason phrase of the RFC.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::BadRequest => "Bad Request",
            Self::Unauthenticated => "Unauthenticated",
            Self::Forbidden => "Forbidden",
            Self::UnknownAttribute => "Unknown Attribute",
            Self::AllocationMismatch => "Allocation Mismatch",
            Self::StaleNonce => "Stale Nonce",
            Self::AddressFamilyNotSupported => "Address Family not Supported",
            Self::WrongCredentials => "Wrong Credentials",
            Self::UnsupportedTransportProtocol => "Unsupported Transport Protocol",
            Self::PeerAddressFamilyMismatch => "Peer Address Family Mismatch",
            Self::AllocationQuotaReached => "Allocation Quota Reached",
            Self::ServerError => "Server Error",
            Self::InsufficientCapacity => "Insufficient Capacity",
        }
    }

    /// Class and number as they stand in the attribute: hundreds, then the rest.
    #[must_use]
    pub const fn class_and_number(self) -> [u8; 2] {
        [(self.number() / 100) as u8, (self.number() % 100) as u8]
    }
}

//! What a transport for lightbus is written against: traits, messages, errors, the subscription driver, the conformance suite.

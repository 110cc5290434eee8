//! The Apache Kafka transport of lightbus.

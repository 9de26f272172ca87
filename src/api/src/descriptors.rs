//! What the messages and services look like, for who asks at run time: the gateway, its description, reflection.

use std::sync::LazyLock;

use prost_reflect::{DescriptorPool, MethodDescriptor};

use crate::method::Method;

/// Every file of the wire types.
pub static POOL: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(quorate_proto::DESCRIPTORS).expect("the build has compiled them"));

/// What goes in and out of `method`; none for one that only has another name here.
pub fn of(method: Method) -> Option<MethodDescriptor> {
    POOL.get_service_by_name(method.service())?.methods().find(|known| known.name() == method.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_is_described() {
        for method in Method::ALL {
            let described = of(*method);
            let is_alias = method.service() == "grpc.reflection.v1alpha.ServerReflection";
            assert_eq!(described.is_none(), is_alias, "{method:?}");
        }
    }
}

//! Every method against every identity.

use trunkline_wire::NodeId;

use super::*;

fn operator(role: Role) -> Identity {
    Identity::Operator { name: "alice".to_owned(), role }
}

/// In the order of the columns below.
fn everybody() -> [Identity; 7] {
    [
        Identity::Newcomer,
        Identity::Node(NodeId { site: 1, server: 2 }),
        operator(Role::Viewer),
        operator(Role::Operator),
        operator(Role::Admin),
        Identity::Replica("r1".to_owned()),
        Identity::Local,
    ]
}

/// Written out by hand, so that it cannot be wrong in the way that the code is.
fn expected(least: Least) -> [bool; 7] {
    const Y: bool = true;
    const N: bool = false;
    match least {
        //                 newcomer, node, viewer, operator, admin, replica, local
        Least::Unspecified => [N, N, N, N, N, N, N],
        Least::Viewer => [N, N, Y, Y, Y, Y, Y],
        Least::Operator => [N, N, N, Y, Y, Y, Y],
        Least::Admin => [N, N, N, N, Y, Y, Y],
        Least::Node => [N, Y, N, N, N, N, Y],
        Least::Newcomer => [Y, N, N, N, N, N, N],
    }
}

#[test]
fn each_method_may_be_called_by_exactly_those_whom_its_role_admits() {
    for (method, role) in METHOD_ROLES {
        let least = Least::try_from(*role).expect("a role of the enum");
        let admitted = everybody().map(|caller| permit(&caller, method).is_ok());
        assert_eq!(admitted, expected(least), "{method}");
    }
}

#[test]
fn the_table_has_each_method_of_each_service() {
    let descriptors =
        prost_reflect::DescriptorPool::decode(trunkline_proto::DESCRIPTORS).expect("descriptors");
    let mut methods = 0;
    for method in descriptors.services().flat_map(|service| service.methods().collect::<Vec<_>>()) {
        let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
        assert!(METHOD_ROLES.iter().any(|(listed, role)| *listed == path && *role != 0), "{path}");
        methods += 1;
    }
    assert_eq!(methods, METHOD_ROLES.len());
    assert!(methods > 20);
}

#[test]
fn what_the_table_does_not_have_is_for_nobody() {
    for method in [
        "/",
        "",
        "/trunkline.operator.v1.OperatorService/",
        "/trunkline.operator.v1.OperatorService/ListNodesX",
        "/trunkline.operator.v1.OperatorService/ListNodes/",
        "/trunkline.operator.v1.OperatorService//ListNodes",
        "trunkline.operator.v1.OperatorService/ListNodes",
        "/TRUNKLINE.operator.v1.OperatorService/ListNodes",
        "/grpc.health.v1.HealthX/Check",
        "/other.Service/Method",
    ] {
        for caller in everybody() {
            assert!(matches!(permit(&caller, method), Err(Refused::Unlisted { .. })), "{caller} {method:?}");
        }
    }
}

#[test]
fn health_is_for_all_and_reflection_for_viewers() {
    for caller in everybody() {
        assert!(permit(&caller, "/grpc.health.v1.Health/Check").is_ok(), "{caller}");
    }
    for version in ["v1", "v1alpha"] {
        let method = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
        let admitted = everybody().map(|caller| permit(&caller, &method).is_ok());
        assert_eq!(admitted, expected(Least::Viewer), "{version}");
    }
}

#[test]
fn a_refusal_names_the_role_that_is_needed() {
    let method = "/trunkline.operator.v1.OperatorService/AddNode";
    let viewer = permit(&operator(Role::Viewer), method).expect_err("refused");
    assert_eq!(
        viewer.to_string(),
        format!("{method} needs the role admin; this certificate is of viewer alice")
    );
    let newcomer = permit(&Identity::Newcomer, method).expect_err("refused");
    assert!(matches!(newcomer, Refused::Unauthenticated { needed: "the role admin", .. }));
}

/// What a service behind the layer would be asked.
async fn ask(identity: Option<Identity>, method: &str) -> (i32, bool) {
    let reached = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let inner = {
        let reached = std::sync::Arc::clone(&reached);
        tower::service_fn(move |request: Request<()>| {
            assert!(request.extensions().get::<Identity>().is_some());
            reached.store(true, std::sync::atomic::Ordering::SeqCst);
            async { Ok::<_, std::convert::Infallible>(Response::new(Body::empty())) }
        })
    };
    let mut request = Request::builder().uri(format!("https://replica{method}")).body(()).expect("a request");
    if let Some(identity) = identity {
        request.extensions_mut().insert(identity);
    }
    let answer = access_layer().layer(inner).call(request).await.expect("an answer");
    let code = answer
        .headers()
        .get("grpc-status")
        .map_or(0, |value| value.to_str().unwrap_or("").parse().unwrap_or(-1));
    (code, reached.load(std::sync::atomic::Ordering::SeqCst))
}

#[tokio::test]
async fn a_refused_call_does_not_reach_the_service() {
    let add = "/trunkline.operator.v1.OperatorService/AddNode";
    let denied = tonic::Code::PermissionDenied as i32;
    let unauthenticated = tonic::Code::Unauthenticated as i32;
    assert_eq!(ask(Some(operator(Role::Admin)), add).await, (0, true));
    assert_eq!(ask(Some(operator(Role::Operator)), add).await, (denied, false));
    assert_eq!(ask(Some(Identity::Newcomer), add).await, (unauthenticated, false));
    assert_eq!(ask(None, add).await, (unauthenticated, false));
    assert_eq!(ask(Some(Identity::Local), "/other.Service/Method").await, (denied, false));
    assert_eq!(ask(None, "/grpc.health.v1.Health/Check").await, (unauthenticated, false));
}

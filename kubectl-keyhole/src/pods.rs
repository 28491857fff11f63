//! Finds Keyhole's pod on each node.

use std::collections::BTreeMap;

use keyhole_flags::{most_similar, suggestion};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::Failure;
use crate::cli::Nodes;
use crate::explain::{kubectl_error, shortened};
use crate::kubectl::Kubectl;

const SELECTOR: &str = "--selector=app.kubernetes.io/name=keyhole,app.kubernetes.io/instance=keyhole";

/// A pod is 15 KB, and a cluster has 5,000 nodes at most.
const LIMIT: usize = 256 << 20;

/// A node with its pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub node: String,
    /// The pod; otherwise why there is none that can be asked.
    pub pod: Result<String, String>,
}

/// The pods of these nodes, sorted by the node's name.
pub async fn find(kubectl: &Kubectl, nodes: &Nodes) -> Result<Vec<Target>, Failure> {
    let arguments = ["get", "pods", SELECTOR, "--output=json"];
    let output = kubectl.run(&arguments, LIMIT).await.map_err(Failure::Failed)?;
    if output.status != Some(0) {
        return Err(Failure::Failed(kubectl_error(output.status, &output.stderr)));
    }
    let list: PodList = serde_json::from_slice(&output.stdout).map_err(|error| {
        let reason = format!("kubectl get pods did not print a list of pods in JSON: {error}");
        Failure::Failed(shortened(&reason))
    })?;
    select(&list, nodes, &kubectl.namespace).map_err(Failure::Failed)
}

fn select(list: &PodList, nodes: &Nodes, namespace: &str) -> Result<Vec<Target>, String> {
    let mut pods: BTreeMap<&str, &Pod> = BTreeMap::new();
    for pod in &list.items {
        let Some(node) = pod.node() else { continue };
        if !is_name(node) {
            return Err(shortened(&format!(
                "kubectl get pods named {node:?}, which is not the name of a node"
            )));
        }
        // Of the pods of a rollout, the one that answers.
        let known = pods.entry(node).or_insert(pod);
        if pod.rank() > known.rank() {
            *known = pod;
        }
    }
    if pods.is_empty() {
        return Err(match list.items.len() {
            0 => format!("no pod of Keyhole in the namespace {namespace}: name its namespace by -n"),
            count => format!(
                "none of the {count} pods in the namespace {namespace} is on a node: \
                 kubectl -n {namespace} describe pods"
            ),
        });
    }
    let target = |node: &str| match pods.get(node) {
        Some(pod) => Target { node: node.to_owned(), pod: pod.name_if_running(namespace) },
        None => {
            let similar = suggestion(most_similar(pods.keys().copied(), node));
            let reason =
                format!("no pod of Keyhole on it{similar}; kubectl keyhole top lists the nodes with one");
            Target { node: node.to_owned(), pod: Err(reason) }
        }
    };
    Ok(match nodes {
        Nodes::All => pods.keys().map(|node| target(node)).collect(),
        Nodes::One(node) => vec![target(node)],
        Nodes::Some(names) => {
            let mut names: Vec<&String> = names.iter().collect();
            names.sort();
            names.dedup();
            names.into_iter().map(|node| target(node)).collect()
        }
    })
}

/// Whether Kubernetes permits this name: a DNS subdomain.
fn is_name(name: &str) -> bool {
    let is_of_names = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
    (1..=253).contains(&name.len()) && name.bytes().all(is_of_names) && !name.starts_with(['-', '.'])
}

#[derive(Debug, Deserialize)]
struct PodList {
    items: Vec<Pod>,
}

#[derive(Debug, Deserialize)]
struct Pod {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: String,
    deletion_timestamp: Option<IgnoredAny>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    node_name: Option<String>,
    affinity: Option<Affinity>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Affinity {
    node_affinity: Option<NodeAffinity>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NodeAffinity {
    required_during_scheduling_ignored_during_execution: Option<NodeSelector>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct NodeSelector {
    node_selector_terms: Vec<NodeSelectorTerm>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NodeSelectorTerm {
    match_fields: Vec<Requirement>,
}

#[derive(Debug, Deserialize)]
struct Requirement {
    key: String,
    #[serde(default)]
    values: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    phase: String,
    reason: String,
    init_container_statuses: Vec<ContainerStatus>,
    container_statuses: Vec<ContainerStatus>,
    conditions: Vec<Condition>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    reason: String,
}

#[derive(Debug, Deserialize)]
struct ContainerStatus {
    name: String,
    #[serde(default)]
    state: State,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct State {
    running: Option<IgnoredAny>,
    waiting: Option<Reason>,
    terminated: Option<Reason>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Reason {
    reason: String,
}

impl Pod {
    /// Its node, or the one that its DaemonSet wants it on.
    fn node(&self) -> Option<&str> {
        if let Some(name) = self.spec.node_name.as_deref().filter(|name| !name.is_empty()) {
            return Some(name);
        }
        let affinity = self.spec.affinity.as_ref()?.node_affinity.as_ref()?;
        let terms =
            &affinity.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
        let mut fields = terms.iter().flat_map(|term| &term.match_fields);
        fields.find(|field| field.key == "metadata.name")?.values.first().map(String::as_str)
    }

    fn is_running(&self) -> bool {
        // Not until it is ready: what is wrong with a pod that is not ready can be asked.
        self.status
            .container_statuses
            .iter()
            .any(|each| each.name == "exporter" && each.state.running.is_some())
    }

    /// The greater, the sooner this pod answers for its node.
    fn rank(&self) -> (bool, bool) {
        (self.is_running(), self.metadata.deletion_timestamp.is_none())
    }

    fn name_if_running(&self, namespace: &str) -> Result<String, String> {
        let name = &self.metadata.name;
        // It is an argument of kubectl, and a part of the advice below.
        if !is_name(name) {
            return Err(shortened(&format!("{name:?} is not the name of a pod")));
        }
        if self.is_running() {
            return Ok(name.clone());
        }
        let reason = self.why_not_running();
        Err(format!("the pod {name} does not run ({reason}): kubectl -n {namespace} describe pod {name}"))
    }

    /// As kubectl shows it, shortened: `ImagePullBackOff`.
    fn why_not_running(&self) -> String {
        if self.metadata.deletion_timestamp.is_some() {
            return "it is being deleted".into();
        }
        let containers = self.status.init_container_statuses.iter().chain(&self.status.container_statuses);
        let reasons = containers.filter_map(|each| {
            let reason = each.state.waiting.as_ref().or(each.state.terminated.as_ref())?;
            // The exporter waits for the broker, whose reason is the one.
            let is_cause = !reason.reason.is_empty() && reason.reason != "PodInitializing";
            is_cause.then(|| format!("{}: {}", each.name, reason.reason))
        });
        let scheduled =
            self.status.conditions.iter().find(|each| each.kind == "PodScheduled" && each.status == "False");
        let mut reasons = reasons.chain(scheduled.map(|condition| condition.reason.clone()));
        reasons.next().unwrap_or_else(|| match (&*self.status.reason, &*self.status.phase) {
            ("", "") => "it has no status yet".into(),
            ("", phase) => phase.to_owned(),
            (reason, _) => reason.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, node: &str, status: &str) -> String {
        format!(
            r#"{{"metadata": {{"name": "{name}"}}, "spec": {{"nodeName": "{node}"}}, "status": {status}}}"#
        )
    }

    const RUNNING: &str = r#"{"phase": "Running", "containerStatuses": [{"name": "exporter", "state": {"running": {"startedAt": "x"}}}]}"#;
    const PULLING: &str = r#"{"phase": "Pending",
        "initContainerStatuses": [{"name": "broker", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "x"}}}],
        "containerStatuses": [{"name": "exporter", "state": {"waiting": {"reason": "PodInitializing"}}}]}"#;

    fn select(pods: &[String], nodes: &Nodes) -> Result<Vec<Target>, String> {
        let list = format!(r#"{{"kind": "List", "items": [{}]}}"#, pods.join(","));
        super::select(&serde_json::from_str(&list).unwrap(), nodes, "keyhole")
    }

    fn target(node: &str, pod: Result<&str, &str>) -> Target {
        Target { node: node.into(), pod: pod.map(str::to_owned).map_err(str::to_owned) }
    }

    #[test]
    fn each_node_has_its_pod_in_the_order_of_names() {
        let pods = [pod("keyhole-b", "node-2", RUNNING), pod("keyhole-a", "node-1", RUNNING)];
        let both = [target("node-1", Ok("keyhole-a")), target("node-2", Ok("keyhole-b"))];
        assert_eq!(select(&pods, &Nodes::All).unwrap(), both);
        assert_eq!(select(&pods, &Nodes::One("node-2".into())).unwrap(), both[1..]);
        let twice = Nodes::Some(vec!["node-2".into(), "node-1".into(), "node-2".into()]);
        assert_eq!(select(&pods, &twice).unwrap(), both);
    }

    #[test]
    fn of_two_pods_of_a_node_the_one_that_stays_is_asked() {
        let deleted = pod("keyhole-a", "node-1", RUNNING)
            .replace(r#"{"name": "keyhole-a""#, r#"{"deletionTimestamp": "x", "name": "keyhole-a""#);
        let pods = [deleted.clone(), pod("keyhole-b", "node-1", RUNNING)];
        assert_eq!(select(&pods, &Nodes::All).unwrap(), [target("node-1", Ok("keyhole-b"))]);
        // The new one does not run yet.
        let pods = [pod("keyhole-b", "node-1", PULLING), deleted];
        assert_eq!(select(&pods, &Nodes::All).unwrap(), [target("node-1", Ok("keyhole-a"))]);
    }

    #[test]
    fn a_pod_that_does_not_run_is_no_target_and_its_reason_is_kubectls() {
        let pending = r#"{"metadata": {"name": "keyhole-c"}, "spec": {"affinity": {"nodeAffinity":
            {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchFields":
            [{"key": "metadata.name", "operator": "In", "values": ["node-3"]}]}]}}}},
            "status": {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]}}"#;
        let pods = [
            pod("keyhole-a", "node-1", PULLING),
            pod("keyhole-b", "node-2", "{}"),
            pending.to_owned(),
            pod("keyhole-d", "node-4", r#"{"phase": "Failed", "reason": "Evicted"}"#),
        ];
        let found = select(&pods, &Nodes::All).unwrap();
        let does_not_run = |pod: &str, reason: &str| {
            format!("the pod {pod} does not run ({reason}): kubectl -n keyhole describe pod {pod}")
        };
        assert_eq!(
            found,
            [
                target("node-1", Err(&does_not_run("keyhole-a", "broker: ImagePullBackOff"))),
                target("node-2", Err(&does_not_run("keyhole-b", "it has no status yet"))),
                target("node-3", Err(&does_not_run("keyhole-c", "Unschedulable"))),
                target("node-4", Err(&does_not_run("keyhole-d", "Evicted"))),
            ]
        );
    }

    #[test]
    fn a_name_is_no_flag_and_no_other_kind_of_object() {
        for name in ["--profile=cpu", "-f", "", "a b", "deployment/x", "a;b", &"a".repeat(254)] {
            let found = select(&[pod(name, "node-1", RUNNING)], &Nodes::All).unwrap();
            assert_eq!(found, [target("node-1", Err(&format!("{name:?} is not the name of a pod")))]);
        }
        for name in ["--", "a b", "a\\nb", "../x", "A"] {
            let error = select(&[pod("keyhole-a", name, RUNNING)], &Nodes::All).unwrap_err();
            assert!(error.ends_with("which is not the name of a node"), "{error}");
        }
    }

    #[test]
    fn an_unknown_node_is_a_reason_with_a_suggestion() {
        let pods = [pod("keyhole-a", "node-one", RUNNING)];
        let found = select(&pods, &Nodes::One("node-ome".into())).unwrap();
        let reason =
            "no pod of Keyhole on it (did you mean node-one?); kubectl keyhole top lists the nodes with one";
        assert_eq!(found, [target("node-ome", Err(reason))]);
        assert_eq!(
            select(&[], &Nodes::All).unwrap_err(),
            "no pod of Keyhole in the namespace keyhole: name its namespace by -n"
        );
    }
}

//! What the machine has to give: source addresses, ports, descriptors, threads.

use std::net::{IpAddr, Ipv4Addr};

use super::{PlanError, usage};
use crate::plan::Plan;

/// The descriptors that a thread needs beside its connections.
const SPARE_DESCRIPTORS: u64 = 64;
/// Clients for each source address that is chosen by the tool.
const CLIENTS_PER_ADDRESS: u32 = 10_000;

/// The addresses of `--ifaddr`, in which `a-b` is a range.
pub(super) fn source_addresses(list: &[String]) -> Result<Vec<IpAddr>, PlanError> {
    let mut addresses = Vec::new();
    for item in list {
        let wrong = || PlanError::Usage(format!("--ifaddr {item}: an address, or a-b"));
        if let Some((from, to)) = item.split_once('-') {
            let from: Ipv4Addr = from.trim().parse().map_err(|_| wrong())?;
            let to: Ipv4Addr = to.trim().parse().map_err(|_| wrong())?;
            if to < from || to.to_bits() - from.to_bits() >= 65_536 {
                return Err(wrong());
            }
            let range = from.to_bits()..=to.to_bits();
            addresses.extend(range.map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))));
        } else {
            addresses.push(item.trim().parse().map_err(|_| wrong())?);
        }
    }
    Ok(addresses)
}

/// On loopback every address is this machine's: enough of them that ports are no limit.
pub(super) fn loopback_sources(plan: &Plan) -> Vec<IpAddr> {
    let loopback = plan.targets.iter().all(|target| target.is_ipv4() && target.ip().is_loopback());
    if !loopback || plan.clients() <= CLIENTS_PER_ADDRESS {
        return Vec::new();
    }
    let addresses = plan.clients().div_ceil(CLIENTS_PER_ADDRESS);
    let first = Ipv4Addr::LOCALHOST.to_bits();
    (first..first + addresses).map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))).collect()
}

/// As many threads as there are processors, or more if one descriptor table each does not do.
pub(super) fn workers(plan: &Plan, wanted: Option<u32>) -> Result<u32, PlanError> {
    let clients = u64::from(plan.clients());
    let each = descriptors().saturating_sub(SPARE_DESCRIPTORS).max(1);
    // Blocks may differ by one member for each group.
    let needed = clients.div_ceil(each.saturating_sub(plan.groups.len() as u64).max(1)).max(1);
    let processors = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let workers = match wanted {
        Some(workers) if u64::from(workers) < needed => {
            return usage(format!(
                "--workers {workers}: {clients} connections need {needed} threads, for each \
                 thread has a table of {each} descriptors; raise the limit (ulimit -n) or give \
                 more"
            ));
        }
        Some(workers) => u64::from(workers),
        None => needed.max(processors.min(clients)),
    };
    Ok(workers as u32)
}

/// Whether the source addresses have a port for every client.
pub(super) fn check_ports(plan: &Plan) -> Result<(), PlanError> {
    let clients = u64::from(plan.clients());
    let ports = u64::from(local_ports().1);
    let addresses = plan.sources.len().max(1) as u64 * plan.targets.len() as u64;
    if clients > ports * addresses {
        return usage(format!(
            "{clients} connections need more than {} source address(es) with {ports} ports each: \
             give {} addresses of this machine by --ifaddr, or widen net.ipv4.ip_local_port_range",
            plan.sources.len().max(1),
            clients.div_ceil(ports) + 1
        ));
    }
    Ok(())
}

/// The first local port, and how many there are.
pub(crate) fn local_ports() -> (u16, u16) {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let text = text.unwrap_or_default();
    let mut bounds = text.split_whitespace().filter_map(|bound| bound.parse::<u16>().ok());
    match (bounds.next(), bounds.next()) {
        (Some(low), Some(high)) if high >= low => (low, (high - low).saturating_add(1)),
        _ => (32_768, 28_232),
    }
}

/// The descriptors that a table may have; raises the limit as far as is allowed.
fn descriptors() -> u64 {
    use rustix::process::{Resource::Nofile, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Nofile);
    // What is not raised stays as it was.
    let _ = setrlimit(Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    getrlimit(Nofile).current.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use crate::plan::tests::{group, plan};

    fn ranges(text: &str) -> Option<Vec<String>> {
        let list: Vec<String> = text.split(',').map(str::to_owned).collect();
        let addresses = source_addresses(&list).ok()?;
        Some(addresses.iter().map(IpAddr::to_string).collect())
    }

    #[test]
    fn addresses_are_lists_and_ranges() {
        let all = ranges("127.0.0.2-127.0.0.120").unwrap();
        assert_eq!(
            (all.len(), all[0].as_str(), all[118].as_str()),
            (119, "127.0.0.2", "127.0.0.120")
        );
        assert_eq!(ranges("10.0.0.255-10.0.1.0,::1").unwrap(), ["10.0.0.255", "10.0.1.0", "::1"]);
        for wrong in ["", "10.0.0.2-10.0.0.1", "10.0.0.1-", "host", "10.0.0.0-10.1.0.0"] {
            assert_eq!(ranges(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn every_client_needs_a_port() {
        let mut it = plan(1);
        let ports = u32::from(local_ports().1);
        it.groups.push(group("g", 2 * ports));
        let error = check_ports(&it).unwrap_err().to_string();
        assert!(error.contains("--ifaddr") && error.contains("ip_local_port_range"), "{error}");
        it.sources = source_addresses(&["127.0.0.1-127.0.0.2".to_owned()]).unwrap();
        assert!(check_ports(&it).is_ok());
    }
}

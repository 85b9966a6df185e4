//! How a number of replicas is divided among nodes.

use crate::function::FunctionName;

/// The share of `node`: all shares of one list come to `total`, and differ by one at most. Which nodes get the one more
/// depends on the function, so that many functions with one replica each are spread over all nodes. A node that is not
/// in the list yet counts itself in.
pub fn of(nodes: &[String], node: &str, name: &FunctionName, total: u32) -> u32 {
    let place = nodes.partition_point(|other| other.as_str() < node);
    let joins = usize::from(nodes.get(place).is_none_or(|found| found != node));
    let count = u32::try_from(nodes.len() + joins).unwrap_or(u32::MAX);
    let place = u32::try_from(place).unwrap_or(u32::MAX);
    let turned = (u64::from(place) + hash(name.as_str())) % u64::from(count);
    total / count + u32::from(turned < u64::from(total % count))
}

/// FNV-1a: the same on every machine and in every release.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    }) >> 8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_come_to_the_whole_and_differ_by_one() {
        let all: Vec<String> = ["a", "b", "c", "d"].map(String::from).into();
        for count in 1..=all.len() {
            let nodes = &all[..count];
            for total in 0..20 {
                for name in ["add", "x", "y-1"] {
                    let name = name.parse().unwrap();
                    let shares: Vec<u32> = nodes.iter().map(|node| of(nodes, node, &name, total)).collect();
                    let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
                    assert_eq!(shares.iter().sum::<u32>(), total, "{shares:?}");
                    assert!(most - least <= 1, "{shares:?}");
                }
            }
        }
    }

    #[test]
    fn single_replicas_are_spread_over_the_nodes() {
        let nodes: Vec<String> = ["a", "b", "c"].map(String::from).into();
        let names = (0..300).map(|n| format!("f-{n}").parse().unwrap());
        let held = names.filter(|name| of(&nodes, "b", name, 1) == 1).count();
        assert!((60..=140).contains(&held), "{held}");
    }

    #[test]
    fn who_joins_counts_itself_in() {
        let nodes = ["a".to_string(), "c".to_string()];
        let name = "add".parse().unwrap();
        assert_eq!(of(&nodes, "b", &name, 6), 2);
        assert_eq!(of(&[], "b", &name, 6), 6);
    }
}

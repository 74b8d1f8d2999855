//! Which links a node keeps.
//!
//! Owns the shape of the mesh. It must not dial: the engine asks whom to dial and which links to give up.
//!
//! Up to `max_links` other nodes, everybody links to everybody. Beyond that the nodes stand on `max_links / 2`
//! rings, on each in another order, given by a hash of their position; a node wants links to its two neighbours on
//! every ring. Both ends of a link want it, no node wants more than `max_links`, the mesh is connected as soon as
//! one ring is, its diameter grows with the logarithm of its size (a union of random rings is an expander), and a
//! node that comes or goes changes two links per ring.

use std::collections::BTreeSet;

use super::route::mix;

/// Which of `others` a node at `own` wants links to. Positions are hashes of peer ids; equal ones stand side
/// by side. The answer holds indexes into `others`.
pub(super) fn wanted(own: u64, others: &[u64], max_links: usize) -> BTreeSet<usize> {
    if others.len() <= max_links {
        return (0..others.len()).collect();
    }
    let mut wanted = BTreeSet::new();
    for ring in 0..(max_links / 2).max(1) as u64 {
        let place = |position: u64| mix(position ^ mix(ring));
        let here = place(own);
        // How far each is ahead on this ring, going up and around.
        let ahead = |index: &usize| place(others[*index]).wrapping_sub(here);
        wanted.extend((0..others.len()).min_by_key(ahead));
        wanted.extend((0..others.len()).max_by_key(ahead));
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    fn mesh(nodes: u64, max_links: usize) -> Vec<BTreeSet<u64>> {
        let position = |node: u64| mix(node.wrapping_mul(77));
        (0..nodes)
            .map(|node| {
                let others: Vec<u64> = (0..nodes).filter(|other| *other != node).collect();
                let positions: Vec<u64> = others.iter().map(|other| position(*other)).collect();
                wanted(position(node), &positions, max_links).into_iter().map(|index| others[index]).collect()
            })
            .collect()
    }

    /// The longest shortest path, if all are connected.
    fn diameter(mesh: &[BTreeSet<u64>]) -> Option<usize> {
        let from = |start: u64| {
            let mut distance = vec![usize::MAX; mesh.len()];
            distance[start as usize] = 0;
            let mut queue = VecDeque::from([start]);
            while let Some(node) = queue.pop_front() {
                for &next in &mesh[node as usize] {
                    if distance[next as usize] == usize::MAX {
                        distance[next as usize] = distance[node as usize] + 1;
                        queue.push_back(next);
                    }
                }
            }
            distance.into_iter().max().filter(|most| *most != usize::MAX)
        };
        (0..mesh.len() as u64).map(from).try_fold(0, |most, one| Some(most.max(one?)))
    }

    #[test]
    fn a_small_mesh_is_full() {
        assert!(mesh(17, 16).iter().all(|links| links.len() == 16));
    }

    #[test]
    fn a_large_mesh_is_bounded_symmetric_connected_and_flat() {
        for (nodes, max_links, flat) in [(18, 16, 2), (200, 4, 9), (500, 16, 4), (50, 2, 25)] {
            let mesh = mesh(nodes, max_links);
            for (node, links) in (0..).zip(&mesh) {
                assert!(links.len() <= max_links && !links.is_empty());
                assert!(links.iter().all(|other| mesh[*other as usize].contains(&node)), "both ends want it");
            }
            assert!(diameter(&mesh).is_some_and(|most| most <= flat), "{nodes}: {:?}", diameter(&mesh));
        }
    }

    #[test]
    fn one_more_node_changes_few_links() {
        let (before, after) = (mesh(100, 8), mesh(101, 8));
        let gone: usize =
            before.iter().zip(&after).map(|(before, after)| before.difference(after).count()).sum();
        assert!(gone <= 8, "two ends of one link for each of four rings, not {gone}");
    }
}

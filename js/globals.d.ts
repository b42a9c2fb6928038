// What the classic script puts where pages find it: for the example's page.
declare var incoming: ReturnType<typeof import('./src/incoming.js').makeIncoming>;

module.exports = () => ['milk', 'bread'];
